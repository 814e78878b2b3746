-- A hop of a fallback chain names its own model in the body: only the bytes of the value, whose
-- offsets the decision left in x-router-span, are replaced.

function envoy_on_request(handle)
  local from, to = string.match(handle:headers():get("x-router-span") or "", "^(%d+)-(%d+)$")
  local name = handle:filterContext():get("model")
  if from == nil or name == nil then return end
  local body = handle:body()
  if body == nil then return end
  local size = body:length()
  if tonumber(to) > size then return end
  local renamed = body:getBytes(0, tonumber(from)) .. name .. body:getBytes(tonumber(to), size - tonumber(to))
  handle:headers():replace("content-length", tostring(body:setBytes(renamed)))
end

-- What a hop does without the sidecar: it puts its model's name into the body, keeps the deadline that all
-- calls of the request share, and escalates a request that is too long for its model's context window.

-- Replaces only the bytes of the name. The decision put their offsets into x-router-span.
local function rename(handle, name)
  local from, to = string.match(handle:headers():get("x-router-span") or "", "^(%d+)-(%d+)$")
  if from == nil then return end
  local body = handle:body()
  if body == nil then return end
  local size = body:length()
  if tonumber(to) > size then return end
  local renamed = body:getBytes(0, tonumber(from)) .. name .. body:getBytes(tonumber(to), size - tonumber(to))
  handle:headers():replace("content-length", tostring(body:setBytes(renamed)))
end

-- Sets the timeout until the answer begins: the rest of the deadline, or the tier's timeout if that is less.
local function keep_time(handle, deadline, own)
  local began = tonumber(handle:headers():get("x-router-began") or "")
  if began == nil then return end
  local left = math.max(1, began + tonumber(deadline) - handle:timestamp())
  own = tonumber(own or "") or left
  handle:headers():replace("x-envoy-upstream-rq-per-try-timeout-ms", string.format("%d", math.min(left, own)))
end

function envoy_on_request(handle)
  local context = handle:filterContext()
  local name, deadline, own = context:get("model"), context:get("deadline"), context:get("timeout")
  if name then rename(handle, name) end
  if deadline then keep_time(handle, deadline, own) end
end

-- The errors of OpenAI, Anthropic and servers such as vLLM for a prompt that is too long for the model.
local TOO_LONG = {
  '"context_length_exceeded"', "maximum context length", "prompt is too long", "exceed context limit",
  "longer than the maximum model length",
}
local READ = 65536 -- how many bytes of an error are read

function envoy_on_response(handle)
  if handle:headers():get(":status") ~= "400" then return end
  local body = handle:body()
  if body == nil then return end
  local text = body:getBytes(0, math.min(body:length(), READ))
  for _, words in ipairs(TOO_LONG) do
    if string.find(text, words, 1, true) then
      handle:headers():add("x-router-escalate", "1")
      return
    end
  end
end

-- What the record of an exchange needs and only Envoy sees: which API was asked under which path,
-- and of the answer its token usage, its first token, how it ended, and what it calls itself.
--
-- Changes nothing, buffers nothing, delays nothing. (Envoy's own filters would not do: in 1.40
-- sse_to_metadata crashes on an event whose data is a JSON scalar, and json_to_metadata holds the
-- answer and makes a 500 of one beyond the buffer limit.) Text inside JSON strings cannot pose as a
-- key, since its quotes are escaped. Every pattern is anchored or bounded: an unbounded one is
-- quadratic in what a provider sends.

local WINDOW = 16384 -- bytes of what is unfinished that are kept for the next chunk
local OBJECT = 1023 -- bytes in which a usage object must end

local COUNTS = {
  {"prompt_tokens", "input"}, {"input_tokens", "input"},
  {"completion_tokens", "output"}, {"output_tokens", "output"},
  {"cached_tokens", "cached"}, {"cache_read_input_tokens", "cached"},
  {"cache_creation_input_tokens", "cache_write"}, {"reasoning_tokens", "reasoning"},
}
local TOKENS = {
  '"content"%s*:%s*"[^"]', '"text"%s*:%s*"[^"]', '"delta"%s*:%s*"[^"]', '"thinking"%s*:%s*"[^"]',
  '"partial_json"%s*:%s*"[^"]', '"reasoning_content"%s*:%s*"[^"]', '"arguments"%s*:%s*"[^"]',
  '"tool_calls"%s*:%s*%[',
}
local FINISHES = {
  '"finish_reason"%s*:%s*"([%w_]+)"', '"stop_reason"%s*:%s*"([%w_]+)"',
  '"incomplete_details"%s*:%s*{%s*"reason"%s*:%s*"([%w_]+)"',
}
local NAMES = {{"model", '"model"%s*:%s*"([^"\\]+)"'}, {"id", '"id"%s*:%s*"([^"\\]+)"'}}

function envoy_on_request(handle)
  -- The route's own word: this is the fail-open route, whatever is decided later.
  local api = handle:filterContext():get("api")
  if api == nil then return end
  local request = handle:streamInfo():dynamicMetadata()
  request:set("router.request", "api", api)
  -- The path as the client sent it; routes may rewrite it for the provider.
  request:set("router.request", "path", string.match(handle:headers():get(":path") or "", "^[^?]*"))
end

local function put(handle, key, value)
  -- Fetched anew each time: an object kept from one chunk to the next is out of scope.
  handle:streamInfo():dynamicMetadata():set("router.usage", key, value)
end

-- The last usage object of a text: what a tool's schema or arguments call usage comes before it.
local function last_usage(text)
  local object, at = nil, 1
  while true do
    local from = string.find(text, '"usage"', at, true)
    if from == nil then return object end
    object = string.match(string.sub(text, from, from + OBJECT), '^"usage"%s*:%s*(%b{})') or object
    at = from + 7
  end
end

local function read_usage(handle, text)
  local object = last_usage(text)
  if object == nil then return end
  -- The output count of a message_start is that of a beginning, not of an answer.
  local beginning = string.find(text, '"message_start"', 1, true)
  for _, count in ipairs(COUNTS) do
    local digits = string.match(object, '[{,]%s*"' .. count[1] .. '"%s*:%s*(%d+)%s*[,}]')
    if digits and #digits < 16 and not (beginning and count[2] == "output") then
      put(handle, count[2], tonumber(digits))
    end
  end
end

local function read_ends(handle, text)
  for _, pattern in ipairs(FINISHES) do
    for reason in string.gmatch(text, pattern) do put(handle, "finish", reason) end
  end
end

local function has_token(text)
  for _, pattern in ipairs(TOKENS) do
    if string.find(text, pattern) then return true end
  end
  return false
end

-- Returns those that are still to be found.
local function read_names(handle, text, wanted)
  local still = {}
  for _, name in ipairs(wanted) do
    local value = string.match(text, name[2])
    if value and #value <= 256 then put(handle, name[1], value) else table.insert(still, name) end
  end
  return still
end

local function read_stream(handle)
  local tail, token_seen, unnamed = "", false, NAMES
  for chunk in handle:bodyChunks() do
    local length = chunk:length()
    if length > 0 then
      local text = tail .. chunk:getBytes(0, length)
      if not token_seen and has_token(text) then
        token_seen = true
        put(handle, "first_token", handle:timestampString(EnvoyTimestampResolution.MICROSECOND))
      end
      unnamed = read_names(handle, text, unnamed)
      if string.find(text, '"usage"', 1, true) then
        -- By event: a message_start must not be taken for the message_delta that follows it.
        for line in string.gmatch(text, "[^\r\n]+") do read_usage(handle, line) end
      end
      read_ends(handle, text)
      tail = string.sub(text, string.match(text, "^.*[\r\n]()") or 1)
      if #tail > WINDOW then tail = string.sub(tail, -WINDOW) end
    end
  end
end

local function read_document(handle)
  local tail, unnamed = "", NAMES
  for chunk in handle:bodyChunks() do
    local length = chunk:length()
    if length > 0 then
      local text = tail .. chunk:getBytes(0, length)
      unnamed = read_names(handle, text, unnamed)
      read_usage(handle, text)
      read_ends(handle, text)
      tail = string.sub(text, -WINDOW)
    end
  end
end

function envoy_on_response(handle)
  local headers = handle:headers()
  local coding = headers:get("content-encoding")
  if coding ~= nil and coding ~= "identity" then return end
  local kind = string.lower(headers:get("content-type") or "")
  if string.find(kind, "^%s*text/event%-stream") then
    read_stream(handle)
  elseif string.find(kind, "^%s*application/[%w.+-]*json") then
    read_document(handle)
  end
end

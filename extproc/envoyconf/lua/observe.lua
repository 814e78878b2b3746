-- What the record of an exchange needs and only Envoy sees: which API was asked under which path,
-- and, of a streamed answer, its token usage, its first token and how it ended.
--
-- Changes nothing and buffers nothing. Envoy's own sse_to_metadata would do, were it not for a crash
-- on events whose data is a JSON scalar (1.40). Every pattern is anchored or bounded: an unbounded one
-- is quadratic in what a provider sends.

local WINDOW = 16384 -- bytes of an unfinished line that are kept
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
local FINISHES = {'"finish_reason"%s*:%s*"([%w_]+)"', '"stop_reason"%s*:%s*"([%w_]+)"'}
local NAMES = {{"model", '"model"%s*:%s*"([^"\\]+)"'}, {"id", '"id"%s*:%s*"([^"\\]+)"'}}

function envoy_on_request(handle)
  -- The route's own metadata: this is the fail-open route, whatever is decided later.
  local api = handle:metadata():get("api")
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

local function last_usage(line)
  local object, at = nil, 1
  while true do
    local from = string.find(line, '"usage"', at, true)
    if from == nil then return object end
    object = string.match(string.sub(line, from, from + OBJECT), '^"usage"%s*:%s*(%b{})') or object
    at = from + 7
  end
end

local function read_usage(handle, line)
  local object = last_usage(line)
  if object == nil then return end
  -- The output count of a message_start is that of a beginning, not of an answer.
  local beginning = string.find(line, '"message_start"', 1, true)
  for _, count in ipairs(COUNTS) do
    local digits = string.match(object, '[{,]%s*"' .. count[1] .. '"%s*:%s*(%d+)%s*[,}]')
    if digits and #digits < 16 and not (beginning and count[2] == "output") then
      put(handle, count[2], tonumber(digits))
    end
  end
end

local function has_token(text)
  for _, pattern in ipairs(TOKENS) do
    if string.find(text, pattern) then return true end
  end
  return false
end

local function is_readable_stream(headers)
  local kind = string.lower(headers:get("content-type") or "")
  local coding = headers:get("content-encoding")
  return string.find(kind, "^%s*text/event%-stream") and (coding == nil or coding == "identity")
end

function envoy_on_response(handle)
  if not is_readable_stream(handle:headers()) then return end
  local tail, token_seen, unnamed = "", false, NAMES
  for chunk in handle:bodyChunks() do
    local length = chunk:length()
    if length > 0 then
      local text = tail .. chunk:getBytes(0, length)
      if not token_seen and has_token(text) then
        token_seen = true
        put(handle, "first_token", handle:timestampString(EnvoyTimestampResolution.MICROSECOND))
      end
      local still = {}
      for _, name in ipairs(unnamed) do
        local value = string.match(text, name[2])
        if value and #value <= 256 then put(handle, name[1], value) else table.insert(still, name) end
      end
      unnamed = still
      if string.find(text, '"usage"', 1, true) then
        for line in string.gmatch(text, "[^\r\n]+") do read_usage(handle, line) end
      end
      for _, pattern in ipairs(FINISHES) do
        for reason in string.gmatch(text, pattern) do put(handle, "finish", reason) end
      end
      tail = string.sub(text, string.match(text, "^.*[\r\n]()") or 1)
      if #tail > WINDOW then tail = string.sub(tail, -WINDOW) end
    end
  end
end

-- Observes for the record what only Envoy can see. Of the request: the API and the path, or in a hop the
-- model. Of the answer: token usage, the time of the first token, the finish reason, a refusal, and the
-- answer's model and id.
--
-- It changes nothing and buffers nothing. Envoy's own filters cannot do this: in 1.40, sse_to_metadata
-- crashes on an event whose data is a JSON scalar, and json_to_metadata buffers the answer and turns one
-- beyond the buffer limit into a 500. Text inside JSON strings is never taken for a key, because its quotes
-- are escaped. Every byte is read about once, for any size of chunks. Every pattern is anchored or bounded,
-- because an unbounded one takes quadratic time.

local STEP = 16384 -- how many bytes of a long line or document are read at a time
local KEPT = 2048 -- the last bytes of a step, read again with the next, because a value may be cut there
local LATEST = 4 -- how many usage objects of a text are tried, the last first

local COUNTS = {
  prompt_tokens = "input", input_tokens = "input",
  completion_tokens = "output", output_tokens = "output",
  cached_tokens = "cached", cache_read_input_tokens = "cached",
  cache_creation_input_tokens = "cache_write", reasoning_tokens = "reasoning",
}
local TOKENS = {
  content = true, text = true, delta = true, thinking = true, partial_json = true, arguments = true,
  reasoning_content = true, reasoning = true, refusal = true,
}
local ENDS = {finish_reason = true, stop_reason = true}
-- Whether a key with a text reports a refusal, per API, in addition to the finish reason. In other APIs, a
-- client may choose these keys, as in the arguments of Anthropic's tools.
local REFUSES = {
  ["openai.chat"] = function(key) return key == "refusal" end,
  ["openai.responses"] = function(key, value)
    return key == "type" and (value == "refusal" or string.find(value, "^response%.refusal%.") ~= nil)
  end,
}
-- An offset, a key, the first character of its text, the rest up to an escape, and a quote if the text ends.
local TEXTS = '()"([%a_]+)"%s*:%s*"([^"]?)([^"\\]*)("?)'
-- A response's status, unless it is in_progress. DETAILS has the reason of an incomplete one.
local STATUS = '"object"%s*:%s*"response"%s*,%s*"created_at"%s*:%s*[%d.]+%s*,%s*"status"%s*:%s*"(%a+)"'
local DETAILS = '"incomplete_details"%s*:%s*{%s*"reason"%s*:%s*"([%w_]+)"'

function envoy_on_request(handle)
  local context, headers = handle:filterContext(), handle:headers()
  -- The settings of the route: here always `fail-open`, before the decision, or the route of a hop.
  local api, model = context:get("api"), context:get("model")
  if api == nil and model == nil then return end
  local request = handle:streamInfo():dynamicMetadata()
  if api then request:set("router.request", "api", api) end
  -- The client's path, before routes rewrite it for the provider.
  request:set("router.request", "path", string.match(headers:get(":path") or "", "^[^?]*"))
  if model == nil then return end
  for _, key in ipairs({"model", "sent", "provider", "cascade", "tier"}) do
    local value = context:get(key)
    if value then request:set("router.hop", key, value) end
  end
  request:set("router.hop", "version", headers:get("x-router-config") or "")
end

local function put(handle, key, value)
  -- Fetched each time, because an object of an earlier chunk is out of scope.
  handle:streamInfo():dynamicMetadata():set("router.usage", key, value)
end

local function counts_of(object)
  local counts = {}
  for key, digits in string.gmatch(object, '"([%a_]+)"%s*:%s*(%d+)%s*%f[,}]') do
    local name = COUNTS[key]
    if name and not counts[name] and #digits < 16 then counts[name] = tonumber(digits) end
  end
  return counts
end

-- The counts of the last usage object that has any, and its offset, or nil. A `usage` in schemas or arguments
-- of tools comes before it.
local function counts_in(text)
  local latest, number, at = {}, 0, string.find(text, '"usage"', 1, true)
  while at do
    latest[number % LATEST] = at
    number, at = number + 1, string.find(text, '"usage"', at + 7, true)
  end
  for i = number - 1, math.max(0, number - LATEST), -1 do
    local from = latest[i % LATEST]
    local object = string.match(text, '^"usage"%s*:%s*(%b{})', from)
    local counts = object and counts_of(object)
    if counts and next(counts) then return counts, from end
  end
end

-- The requested API, from the metadata: the settings of the first route are no longer available.
local function asked_api(handle)
  local noted = handle:streamInfo():dynamicMetadata():get("router.request")
  return noted and noted.api
end

-- Whether a name can be put into metadata: invalid UTF-8 would break the whole message, and a text with an
-- escape is not the name itself. So only ASCII without escapes is accepted.
local function is_plain(text) return not string.find(text, "[\\\128-\255]") end

-- Reads the finish reason, a refusal, and the first model and id of the answer, not those of a tool call.
local function ends_and_names_reader(handle)
  local named, refuses = {}, REFUSES[asked_api(handle)]
  return function(text)
    local called = string.find(text, '"tool_calls"', 1, true)
    for at, key, first, rest, ended in string.gmatch(text, TEXTS) do
      if key == "id" and called and at > called then named.id = true end
      if (key == "model" or key == "id") and not named[key] and first ~= "" then
        named[key] = true
        if ended ~= "" and #rest < 256 and is_plain(first .. rest) then put(handle, key, first .. rest) end
      elseif ENDS[key] and ended ~= "" and string.find(first .. rest, "^[%w_]+$") then
        put(handle, "finish", first .. rest)
      elseif refuses and first ~= "" and refuses(key, first .. rest) then
        put(handle, "refusal", true)
        refuses = nil
      end
    end
    for _, pattern in ipairs({STATUS, DETAILS}) do
      local reason = string.match(text, pattern)
      if reason then put(handle, "finish", reason) end
    end
  end
end

local function has_token_key(text)
  for _, key, first in string.gmatch(text, TEXTS) do
    if first ~= "" and TOKENS[key] then return true end
  end
  return string.find(text, '"tool_calls"%s*:%s*%[%s*{') ~= nil
end

-- A complete response repeats the request's tools, whose schemas may contain any key. So it is skipped, as is
-- the end of a line that began before this text.
local function has_token(text, continued)
  if not has_token_key(text) then return false end
  for line in string.gmatch(text, "[^\r\n]+") do
    local of_response = string.find(line, '"object"%s*:%s*"response"')
    if not continued and not of_response and has_token_key(line) then return true end
    continued = false
  end
  return false
end

local function stream_reader(handle)
  local token_seen, read_ends_and_names = false, ends_and_names_reader(handle)
  return function(text, _, continued)
    if not token_seen and has_token(text, continued) then
      token_seen = true
      put(handle, "first_token", handle:timestampString(EnvoyTimestampResolution.MICROSECOND))
    end
    read_ends_and_names(text)
    if not string.find(text, '"usage"', 1, true) then return end
    -- Event by event, because Anthropic reports the input first and the output last.
    for line in string.gmatch(text, "[^\r\n]+") do
      local counts = counts_in(line)
      if counts then
        -- The output count of message_start is not that of the answer.
        if string.find(line, '"message_start"', 1, true) then counts.output = nil end
        for key, count in pairs(counts) do put(handle, key, count) end
      end
    end
  end
end

local function document_reader(handle)
  local counts, read_ends_and_names = nil, ends_and_names_reader(handle)
  return function(text, ended)
    read_ends_and_names(text)
    local found, from = counts_in(text)
    counts = found or counts
    -- A usage before a message's stop_reason is part of its content, in a tool's arguments.
    if string.find(text, '"stop_reason"', from or 1, true) then counts = nil end
    if ended then
      for key, count in pairs(counts or {}) do put(handle, key, count) end
    end
  end
end

-- Calls read(text, ended, continued) with whole lines, if `lines`, and with overlapping steps of anything
-- longer.
local function read_body(handle, read, lines)
  local pieces, size, continued = {}, 0, false
  for chunk in handle:bodyChunks() do
    local length = chunk:length()
    local piece = length > 0 and chunk:getBytes(0, length) or ""
    table.insert(pieces, piece)
    size = size + length
    local line_ends = lines and string.find(piece, "[\r\n]")
    if line_ends or size >= STEP then
      local text = table.concat(pieces)
      local rest = line_ends and string.match(text, "^.*[\r\n]()") or math.max(1, #text - KEPT + 1)
      read(line_ends and string.sub(text, 1, rest - 1) or text, false, continued)
      pieces, continued = {string.sub(text, rest)}, not line_ends
      size = line_ends and #pieces[1] or 0
    end
  end
  read(table.concat(pieces), true, continued)
end

function envoy_on_response(handle)
  local headers = handle:headers()
  if handle:filterContext():get("model") then
    -- The provider's status, before a gate may change it.
    handle:streamInfo():dynamicMetadata():set("router.hop", "status", headers:get(":status"))
  end
  local coding = headers:get("content-encoding")
  if coding ~= nil and coding ~= "identity" then return end
  local kind = string.lower(headers:get("content-type") or "")
  if string.find(kind, "^%s*text/event%-stream") then
    read_body(handle, stream_reader(handle), true)
  elseif string.find(kind, "^%s*application/[%w.+-]*json") then
    read_body(handle, document_reader(handle), false)
  end
end

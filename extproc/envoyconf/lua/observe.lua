-- What the record of an exchange needs and only Envoy sees: which API was asked under which path, or
-- in a hop which model, and of the answer its token usage, its first token, how it ended, whether that
-- was a refusal, and what it calls itself.
--
-- Changes nothing, holds nothing back. (Envoy's own filters would not do: in 1.40 sse_to_metadata
-- crashes on an event whose data is a JSON scalar, and json_to_metadata holds the answer and makes a
-- 500 of one beyond the buffer limit.) Text inside JSON strings cannot pose as a key, since its quotes
-- are escaped. Every byte is read about once, however it is cut into chunks, and every pattern is
-- anchored or bounded: an unbounded one is quadratic in what a provider sends.

local STEP = 16384 -- bytes of one line or document that are read at a time
local KEPT = 2048 -- of these the last, read again with what follows, should a value be cut there
local LATEST = 4 -- how many usage objects of a text are tried

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
-- How an API says that the model refused, beside the reason of the end: whether a key with a text that is
-- not empty does. In other APIs these keys are a client's, as in the arguments of Anthropic's tools.
local REFUSES = {
  ["openai.chat"] = function(key) return key == "refusal" end,
  ["openai.responses"] = function(key, value)
    return key == "type" and (value == "refusal" or string.find(value, "^response%.refusal%.") ~= nil)
  end,
}
-- A key, whether its text is empty, the text as far as it has no escapes, and whether that is all.
local TEXTS = '()"([%a_]+)"%s*:%s*"([^"]?)([^"\\]*)("?)'
-- A response's status, unless it is in_progress; its details say more.
local STATUS = '"object"%s*:%s*"response"%s*,%s*"created_at"%s*:%s*[%d.]+%s*,%s*"status"%s*:%s*"(%a+)"'
local DETAILS = '"incomplete_details"%s*:%s*{%s*"reason"%s*:%s*"([%w_]+)"'

function envoy_on_request(handle)
  local context, headers = handle:filterContext(), handle:headers()
  -- The route's own word: this is the fail-open route, whatever is decided later; or that of a hop.
  local api, model = context:get("api"), context:get("model")
  if api == nil and model == nil then return end
  local request = handle:streamInfo():dynamicMetadata()
  if api then request:set("router.request", "api", api) end
  -- The path as the client sent it; routes may rewrite it for the provider.
  request:set("router.request", "path", string.match(headers:get(":path") or "", "^[^?]*"))
  if model == nil then return end
  for _, key in ipairs({"model", "sent", "provider", "cascade", "tier"}) do
    local value = context:get(key)
    if value then request:set("router.hop", key, value) end
  end
  request:set("router.hop", "version", headers:get("x-router-config") or "")
end

local function put(handle, key, value)
  -- Fetched anew each time: an object kept from one chunk to the next is out of scope.
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

-- The counts of the last usage object of a text that has any, and where it begins, or nil: what tools'
-- schemas or arguments call usage comes before it.
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

-- Which API was asked: the route's own word is gone by now, but was noted.
local function asked_api(handle)
  local noted = handle:streamInfo():dynamicMetadata():get("router.request")
  return noted and noted.api
end

-- A text that is no UTF-8 would make one of the whole message that tells of it, and what has an escape
-- is not the name yet. Names that are neither are ASCII.
local function is_plain(text) return not string.find(text, "[\\\128-\255]") end

-- Reads how an answer ended, a refusal, and what it calls itself: the first model and id, but no tool call's.
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

local function tells_token(text)
  for _, key, first in string.gmatch(text, TEXTS) do
    if first ~= "" and TOKENS[key] then return true end
  end
  return string.find(text, '"tool_calls"%s*:%s*%[%s*{') ~= nil
end

-- A whole response repeats the request's tools, whose schemas may say anything, so it is left out, and
-- so is whatever goes on with a line that began before this text.
local function has_token(text, continued)
  if not tells_token(text) then return false end
  for line in string.gmatch(text, "[^\r\n]+") do
    local of_response = string.find(line, '"object"%s*:%s*"response"')
    if not continued and not of_response and tells_token(line) then return true end
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
    -- Event by event: they add up, as Anthropic tells the input first and the output last.
    for line in string.gmatch(text, "[^\r\n]+") do
      local counts = counts_in(line)
      if counts then
        -- The output count of a beginning is not that of an answer.
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
    -- What comes before a message's stop_reason was its content: a tool's arguments.
    if string.find(text, '"stop_reason"', from or 1, true) then counts = nil end
    if ended then
      for key, count in pairs(counts or {}) do put(handle, key, count) end
    end
  end
end

-- Calls read(text, ended, continued) with whole lines, where there are lines, and with overlapping
-- steps of what is longer.
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
    -- The provider's, whatever a gate makes of it.
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

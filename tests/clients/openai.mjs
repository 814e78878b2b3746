// OpenAI's own client, npm.
import OpenAI from "openai";
import { HELLO, TRIP, URL, WEATHER, apiKey, checkDenied, checkText, checkTrip, gathered, schema, user } from "./common.mjs";

const client = new OpenAI({ baseURL: `${URL}/v1`, apiKey, maxRetries: 0 });
const chat = (text, more = {}) => client.chat.completions.create({ model: "auto", messages: user(text), ...more });
const respond = (text, more = {}) => client.responses.create({ model: "auto", input: text, ...more });
const tools = [{ type: "function", function: { name: "get_weather", parameters: schema } }];
const format = { type: "json_schema", json_schema: { name: "trip", schema, strict: true } };

checkText((await chat(HELLO)).choices[0].message.content);
checkText(await gathered(await chat(HELLO, { stream: true }), (chunk) => chunk.choices[0]?.delta.content));
checkTrip(JSON.parse((await chat(WEATHER, { tools })).choices[0].message.tool_calls[0].function.arguments));
checkTrip(JSON.parse((await chat(TRIP, { response_format: format })).choices[0].message.content));
await checkDenied(chat);

checkText((await respond(HELLO)).output_text);
checkText(await gathered(await respond(HELLO, { stream: true }), (event) => event.type === "response.output_text.delta" ? event.delta : ""));
checkTrip(JSON.parse((await respond(TRIP, { text: { format: { type: "json_schema", name: "trip", schema } } })).output_text));
await checkDenied(respond);

// Anthropic's own client, npm.
import Anthropic from "@anthropic-ai/sdk";
import { HELLO, URL, WEATHER, apiKey, checkDenied, checkText, checkTrip, gathered, schema, user } from "./common.mjs";

const client = new Anthropic({ baseURL: URL, apiKey, maxRetries: 0 });
const ask = (text, more = {}) => client.messages.create({ model: "auto", max_tokens: 99, messages: user(text), ...more });

checkText((await ask(HELLO)).content[0].text);
checkText(await gathered(await ask(HELLO, { stream: true }), (event) => event.delta?.text));
checkTrip((await ask(WEATHER, { tools: [{ name: "get_weather", input_schema: schema }] })).content[0].input);
await checkDenied(ask);

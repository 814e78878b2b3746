// Vercel's AI SDK, by responses (its default), chat completions and messages.
import assert from "node:assert/strict";
import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAI } from "@ai-sdk/openai";
import { Output, generateText, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";
import { HELLO, TRIP, URL, WEATHER, apiKey, checkDenied, checkText, checkTrip, gathered } from "./common.mjs";

const openai = createOpenAI({ baseURL: `${URL}/v1`, apiKey });
const anthropic = createAnthropic({ baseURL: `${URL}/v1`, apiKey });
const trip = z.object({ city: z.string(), days: z.number().int() });
const get_weather = tool({
  description: "The weather in a city",
  inputSchema: z.object({ city: z.string() }),
  execute: async () => "sunny",
});

for (const model of [openai("auto"), openai.chat("auto"), anthropic("auto")]) {
  const ask = (prompt, more = {}) => generateText({ model, prompt, maxOutputTokens: 99, maxRetries: 0, ...more });
  checkText((await ask(HELLO)).text);
  checkText(await gathered(streamText({ model, prompt: HELLO, maxOutputTokens: 99 }).textStream, (piece) => piece));
  checkTrip((await ask(TRIP, { output: Output.object({ schema: trip }) })).output);
  const { steps, text } = await ask(WEATHER, { tools: { get_weather }, stopWhen: stepCountIs(3) });
  assert.deepEqual(steps.map((step) => step.toolResults.length), [1, 0]);
  assert.ok(text);
  await checkDenied(ask);
}

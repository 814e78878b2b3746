// What the scripts of this directory share. Each asks the demo through one client library.
import assert from "node:assert/strict";

export const URL = process.env.ROUTER_URL; // of Envoy
export const apiKey = "any"; // the demo asks for none, and clients ask for one
export const HELLO = "Hello!";
export const TRIP = "Three days in Oslo";
export const WEATHER = "use get_weather for Oslo"; // the demo's models call a tool that the prompt names
const CARD = "My card is 4111 1111 1111 1111"; // a deny rule of the demo

export const user = (content) => [{ role: "user", content }];

export const schema = {
  type: "object",
  properties: { city: { type: "string" }, days: { type: "integer" } },
  required: ["city", "days"],
  additionalProperties: false,
};

export const checkText = (text) => assert.match(text, /^\[demo-\S+\] You asked: /);

export const checkTrip = (trip) => assert.deepEqual([typeof trip.city, trip.days], ["string", 1]);

export async function gathered(stream, textOf) {
  const pieces = [];
  for await (const piece of stream) pieces.push(textOf(piece) ?? "");
  assert.ok(pieces.length > 1);
  return pieces.join("");
}

export const checkDenied = (ask) => assert.rejects(() => ask(CARD), /Card numbers may not be sent to a model/);

import { expect, test } from "vitest";
import { SseDecoder } from "./sse";

const STREAM = 'data: {"delta":"Hel"}\n\ndata: {"delta":"lo"}\n\n: a comment\n\nevent: done\ndata: {}\n\n';

test("events do not depend on how the text was cut", () => {
  const whole = new SseDecoder().feed(STREAM);
  for (let cut = 0; cut <= STREAM.length; cut++) {
    const decoder = new SseDecoder();
    expect([...decoder.feed(STREAM.slice(0, cut)), ...decoder.feed(STREAM.slice(cut))]).toEqual(whole);
  }
  expect(whole.map(({ kind }) => kind)).toEqual(["message", "message", "done"]);
});

test("an event that never ended is none", () => {
  expect(new SseDecoder().feed("data: half")).toEqual([]);
});

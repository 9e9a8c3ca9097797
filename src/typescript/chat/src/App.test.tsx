import { cleanup, render, screen } from "@testing-library/react";
import userEvent from "@testing-library/user-event";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { App } from "./App";

const encoder = new TextEncoder();

/** An answer that the test writes piece by piece, as the network would. */
function answering() {
  let controller!: ReadableStreamDefaultController<Uint8Array>;
  const body = new ReadableStream<Uint8Array>({ start: (it) => { controller = it; } });
  const asked: { body: string; signal: AbortSignal }[] = [];
  vi.stubGlobal("fetch", async (_: string, options: { body: string; signal: AbortSignal }) => {
    asked.push(options);
    options.signal.addEventListener("abort", () => controller.error(new DOMException("", "AbortError")));
    return new Response(body);
  });
  return { asked, write: (text: string) => controller.enqueue(encoder.encode(text)), cut: () => controller.close() };
}

const piece = (delta: string) => `data: ${JSON.stringify({ delta })}\n\n`;

beforeEach(() => localStorage.clear());
afterEach(() => {
  cleanup();
  vi.unstubAllGlobals();
});

async function say(text: string) {
  render(<App />);
  await userEvent.type(screen.getByLabelText("Message"), `${text}{Enter}`);
}

test("an answer appears as it is written, across torn pieces", async () => {
  const { write, asked } = answering();
  await say("Hi");
  const whole = piece("Hello **there**");
  write(whole.slice(0, 9));
  write(whole.slice(9));
  await screen.findByText("there");
  write("event: done\ndata: {}\n\n");
  await screen.findByRole("button", { name: "Send" });
  expect(JSON.parse(asked[0]?.body ?? "")).toMatchObject({ message: "Hi", history: [], stream: true });
});

test("HTML in an answer is shown, not run", async () => {
  const { write } = answering();
  await say("Hi");
  write(piece('<img src="x" onerror="alert(1)"> [a](javascript:alert(1))'));
  await screen.findByText(/onerror/);
  expect(document.querySelector("img")).toBeNull();
  expect(document.querySelector('a[href^="javascript"]')).toBeNull();
});

test("a stop keeps what was written", async () => {
  const { write, asked } = answering();
  await say("Hi");
  write(piece("Half"));
  await screen.findByText("Half");
  await userEvent.keyboard("{Escape}");
  await screen.findByRole("button", { name: "Send" });
  expect(asked[0]?.signal.aborted).toBe(true);
  expect(screen.queryByRole("alert")).toBeNull();
});

test("an answer that breaks off can be tried again", async () => {
  const { write, cut } = answering();
  await say("Hi");
  write(piece("Half"));
  await screen.findByText("Half");
  cut();
  expect((await screen.findByRole("alert")).textContent).toContain("broke off");

  const again = answering();
  await userEvent.click(screen.getByRole("button", { name: "Try again" }));
  again.write(`${piece("Whole")}event: done\ndata: {}\n\n`);
  await screen.findByText("Whole");
  expect(screen.queryByText("Half")).toBeNull();
});

test("an error of the backend is told with its request id", async () => {
  const error = { code: "engine_unavailable", message: "the model still loads", request_id: "r-1" };
  vi.stubGlobal("fetch", async () => new Response(JSON.stringify({ error }), { status: 503 }));
  await say("Hi");
  const alert = await screen.findByRole("alert");
  expect(alert.textContent).toContain("the model still loads");
  expect(alert.textContent).toContain("r-1");
});

test("a chat that cannot be reached is told", async () => {
  vi.stubGlobal("fetch", async () => { throw new TypeError("Failed to fetch"); });
  await say("Hi");
  expect((await screen.findByRole("alert")).textContent).toContain("cannot be reached");
});

test("conversations outlive the page", async () => {
  const { write } = answering();
  await say("Remember me");
  write(`${piece("Yes")}event: done\ndata: {}\n\n`);
  await screen.findByText("Yes");
  cleanup();
  render(<App />);
  await screen.findByText("Yes");
  await userEvent.click(screen.getByRole("button", { name: "Delete: Remember me" }));
  expect(screen.queryByText("Yes")).toBeNull();
});

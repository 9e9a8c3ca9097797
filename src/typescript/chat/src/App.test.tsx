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

test("the page opens on plain http, which has no randomUUID and no clipboard", async () => {
  vi.stubGlobal("crypto", { getRandomValues: crypto.getRandomValues.bind(crypto) });
  const copied = vi.fn(() => true);
  document.execCommand = copied;
  const { write } = answering();
  await say("Hi");
  write(`${piece("Hello")}event: done\ndata: {}\n\n`);
  await screen.findByText("Hello");
  await userEvent.click(screen.getAllByRole("button", { name: "Copy" })[1]!);
  await screen.findByRole("button", { name: "Copied" });
  expect(copied).toHaveBeenCalledWith("copy");
});

test("an answer that reached its length goes on in the same turn", async () => {
  const first = answering();
  await say("Tell me all");
  first.write(`${piece("Once upon")}event: done\ndata: ${JSON.stringify({ finish_reason: "length" })}\n\n`);
  await screen.findByText(/Cut off/);
  const rest = answering();
  await userEvent.click(screen.getByRole("button", { name: "Continue" }));
  rest.write(`${piece(" a time")}event: done\ndata: {}\n\n`);
  await screen.findByText("Once upon a time");
  expect(screen.queryByText(/Cut off/)).toBeNull();
  expect(JSON.parse(rest.asked[0]?.body ?? "").history.at(-1)).toEqual({ role: "assistant", content: "Once upon" });
});

test("a question that is edited replaces what followed", async () => {
  const first = answering();
  await say("Who was Adda?");
  first.write(`${piece("Nobody")}event: done\ndata: {}\n\n`);
  await screen.findByText("Nobody");
  const second = answering();
  await userEvent.click(screen.getByRole("button", { name: "Edit" }));
  const box = screen.getByLabelText("Message");
  expect(box).toHaveProperty("value", "Who was Adda?");
  await userEvent.clear(box);
  await userEvent.type(box, "Who was Ada?{Enter}");
  second.write(`${piece("A countess")}event: done\ndata: {}\n\n`);
  await screen.findByText("A countess");
  expect(screen.queryByText("Nobody")).toBeNull();
  expect(JSON.parse(second.asked[0]?.body ?? "")).toMatchObject({ message: "Who was Ada?", history: [] });
});

test("what the model no longer sees is said", async () => {
  const { write } = answering();
  await say("Hi");
  write(`${piece("Hello")}event: done\ndata: ${JSON.stringify({ dropped_turns: 4 })}\n\n`);
  await screen.findByText(/no longer sees the first 4 messages/);
});

test("reasoning is folded, links open beside, pictures are not loaded", async () => {
  const { write } = answering();
  await say("Hi");
  write(piece("<think>Let me see"));
  expect((await screen.findByText("Let me see")).closest("details")?.open).toBe(false);
  write(`${piece("</think>[Here](https://a.example) ![it](https://b.example/p.png)")}event: done\ndata: {}\n\n`);
  const link = await screen.findByRole("link", { name: "Here" });
  expect([link.getAttribute("target"), link.getAttribute("rel")]).toEqual(["_blank", "noopener noreferrer"]);
  expect(document.querySelector("img")).toBeNull();
});

test("an event that cannot be read is an error, and not a hang", async () => {
  const { write } = answering();
  await say("Hi");
  write("data: {broken\n\n");
  expect((await screen.findByRole("alert")).textContent).toContain("cannot be read");
});

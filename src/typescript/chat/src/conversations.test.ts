import { expect, test } from "vitest";
import { type Action, currentOf, empty, lastQuestion, load, reduce, type State, save, titleOf } from "./conversations";

const start: State = { conversations: [empty("a")], current: "a", answering: null };
const after = (...actions: Action[]) => actions.reduce(reduce, start);

test("pieces make one answer", () => {
  const state = after(
    { kind: "asked", message: "Hi" },
    { kind: "piece", id: "a", text: "Hel" },
    { kind: "piece", id: "a", text: "lo" },
    { kind: "ended", id: "a" },
  );
  expect(currentOf(state).turns).toEqual([
    { role: "user", content: "Hi" },
    { role: "assistant", content: "Hello" },
  ]);
  expect(state.answering).toBeNull();
});

test("an answer goes to the conversation that asked, whichever is open", () => {
  const state = after(
    { kind: "asked", message: "Hi" },
    { kind: "new", id: "b" },
    { kind: "piece", id: "a", text: "Hello" },
  );
  expect(currentOf(state).turns).toEqual([]);
  expect(state.conversations.find(({ id }) => id === "a")?.turns).toHaveLength(2);
});

test("a retry forgets the half answer and keeps the question", () => {
  const failure = { message: "cut", requestId: "r" };
  const state = after(
    { kind: "asked", message: "Hi" },
    { kind: "piece", id: "a", text: "Hel" },
    { kind: "failed", id: "a", failure },
    { kind: "retried" },
  );
  expect(currentOf(state)).toEqual({ id: "a", turns: [{ role: "user", content: "Hi" }], failure: null });
  expect(lastQuestion(currentOf(state).turns)).toEqual({ message: "Hi", history: [] });
});

test("the last conversation that is deleted leaves an empty one", () => {
  const state = after({ kind: "delete", id: "a", replacement: "b" });
  expect(state.conversations).toEqual([empty("b")]);
  expect(state.current).toBe("b");
});

test("a piece for a deleted conversation goes nowhere", () => {
  const state = after({ kind: "delete", id: "a", replacement: "b" }, { kind: "piece", id: "a", text: "x" });
  expect(state.conversations).toEqual([empty("b")]);
});

test("conversations are kept, and what cannot be read is begun anew", () => {
  const kept = new Map<string, string>();
  const storage = {
    getItem: (key: string) => kept.get(key) ?? null,
    setItem: (key: string, value: string) => void kept.set(key, value),
  };
  const state = after({ kind: "asked", message: "Hi" });
  save(storage, state);
  expect(load(storage, "z")).toEqual({ ...state, answering: null });
  expect(load({ getItem: () => "{broken" }, "z").conversations).toEqual([empty("z")]);
});

test("storage that is full stops nobody", () => {
  const full = { setItem: () => { throw new DOMException("full", "QuotaExceededError"); } };
  expect(() => save(full, start)).not.toThrow();
});

test("a long first question is a short title", () => {
  const turns = [{ role: "user" as const, content: "x".repeat(100) }];
  expect(titleOf({ ...empty("a"), turns })).toHaveLength(40);
  expect(titleOf(empty("a"))).toBe("New conversation");
});

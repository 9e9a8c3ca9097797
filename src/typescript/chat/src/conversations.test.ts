import { expect, test } from "vitest";
import {
  type Action,
  asMarkdown,
  currentOf,
  empty,
  lastQuestion,
  mentions,
  reduce,
  type State,
  titleOf,
} from "./conversations";

const start: State = { conversations: [empty("a")], current: "a", answering: null };
const after = (...actions: Action[]) => actions.reduce(reduce, start);
const asked = (message: string, at = 0): Action => ({ kind: "asked", message, at, now: 1 });

test("pieces make one answer", () => {
  const state = after(
    asked("Hi"),
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
  const state = after(asked("Hi"), { kind: "new", id: "b" }, { kind: "piece", id: "a", text: "Hello" });
  expect(currentOf(state).turns).toEqual([]);
  expect(state.conversations.find(({ id }) => id === "a")?.turns).toHaveLength(2);
});

test("a question that is asked again forgets its answer and what followed", () => {
  const state = after(
    asked("One"),
    { kind: "piece", id: "a", text: "First" },
    { kind: "ended", id: "a" },
    asked("Two", 2),
    { kind: "piece", id: "a", text: "Half" },
    { kind: "failed", id: "a", failure: { message: "cut", requestId: "r" } },
    asked("One, in other words", 0),
  );
  expect(currentOf(state).turns).toEqual([{ role: "user", content: "One, in other words" }]);
  expect(currentOf(state).failure).toBeNull();
  expect(lastQuestion(currentOf(state).turns)).toBe(0);
});

test("an answer says how it ended, until it goes on", () => {
  const cut = after(
    asked("Hi"),
    { kind: "piece", id: "a", text: "Long" },
    { kind: "ended", id: "a", cut: "length", dropped: 2 },
  );
  expect(currentOf(cut).turns[1]).toEqual({ role: "assistant", content: "Long", cut: "length", dropped: 2 });
  const whole = [
    { kind: "continued" } as const,
    { kind: "piece", id: "a", text: "er" } as const,
    { kind: "ended", id: "a" } as const,
  ].reduce(reduce, cut);
  expect(currentOf(whole).turns).toEqual([
    { role: "user", content: "Hi" },
    { role: "assistant", content: "Longer" },
  ]);
});

test("what another tab keeps is taken over, but not over an answer that is written here", () => {
  const theirs = { ...empty("b"), turns: [{ role: "user" as const, content: "There" }] };
  const merge = (id: string, conversation: typeof theirs | null): Action => {
    return { kind: "merged", id, conversation, replacement: "z" };
  };
  expect(after(merge("b", theirs)).conversations.map(({ id }) => id)).toEqual(["b", "a"]);
  expect(after(merge("b", theirs), merge("b", null)).conversations.map(({ id }) => id)).toEqual(["a"]);
  const writing = after(asked("Hi"), merge("a", { ...theirs, id: "a" }), merge("a", null));
  expect(currentOf(writing).turns[0]?.content).toBe("Hi");
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

test("a long first question is a short title", () => {
  const turns = [{ role: "user" as const, content: "x".repeat(100) }];
  expect(titleOf({ ...empty("a"), turns })).toHaveLength(40);
  expect(titleOf(empty("a"))).toBe("New conversation");
});

test("a conversation is found by any of its words, and exported whole", () => {
  const turns = [{ role: "user" as const, content: "Who was Ada?" }, { role: "assistant" as const, content: "A poet's daughter." }];
  const conversation = { ...empty("a"), turns };
  expect([mentions(conversation, " DAUGHTER"), mentions(conversation, "son")]).toEqual([true, false]);
  expect(asMarkdown(conversation)).toBe("# Who was Ada?\n\n## You\n\nWho was Ada?\n\n## Model\n\nA poet's daughter.\n");
});

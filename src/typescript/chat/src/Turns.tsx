/** The turns of a conversation, scrolled to the end for those who read there. */
import { type RefObject, useCallback, useEffect, useLayoutEffect, useRef, useState } from "react";
import { Answer, Question } from "./Answer";
import type { Conversation } from "./conversations";

/** A reader who is this close to the end (px) follows the answer as it grows. */
const NEAR_PX = 60;

export function Turns(props: {
  conversation: Conversation;
  answering: boolean;
  busy: boolean;
  onEdit: (index: number) => void;
  onRegenerate: () => void;
  onContinue: () => void;
}) {
  const { turns, failure } = props.conversation;
  const { box, atEnd, toEnd, onScroll } = useFollowing(turns.filter(({ role }) => role === "user").length);
  useLayoutEffect(() => {
    if (atEnd.current) toEnd();
  }, [turns, failure, atEnd, toEnd]);
  const away = useAway(atEnd, turns);

  return (
    <div className="reading">
      {/* A screen reader reads an answer when it is whole, not word by word. */}
      <div
        className="turns"
        role="log"
        aria-busy={props.answering}
        aria-label="Conversation"
        tabIndex={0}
        ref={box}
        onScroll={() => {
          onScroll();
          away.look();
        }}
      >
        {turns.length === 0 && <p className="hint">Ask the model something.</p>}
        {turns.map((turn, index) => {
          const last = index === turns.length - 1 && !props.busy;
          return turn.role === "user" ? (
            <EditableQuestion key={index} text={turn.content} index={index} busy={props.busy} onEdit={props.onEdit} />
          ) : (
            <Answer
              key={index}
              turn={turn}
              onRegenerate={last ? props.onRegenerate : undefined}
              onContinue={last ? props.onContinue : undefined}
            />
          );
        })}
        {props.answering && <p className="hint">Writing…</p>}
      </div>
      {away.is && (
        <button type="button" className="to-end" onClick={toEnd}>
          To the end
        </button>
      )}
    </div>
  );
}

function EditableQuestion(props: { text: string; index: number; busy: boolean; onEdit: (index: number) => void }) {
  const { index, onEdit } = props;
  const edit = useCallback(() => onEdit(index), [index, onEdit]);
  return <Question text={props.text} onEdit={props.busy ? undefined : edit} />;
}

/** Whether the end is in sight is what was true before the answer grew. */
function useFollowing(questions: number) {
  const box = useRef<HTMLDivElement>(null);
  const atEnd = useRef(true);
  const toEnd = useCallback(() => {
    const it = box.current;
    if (it) it.scrollTop = it.scrollHeight;
    atEnd.current = true;
  }, []);
  const onScroll = useCallback(() => {
    const it = box.current;
    if (it) atEnd.current = it.scrollHeight - it.scrollTop - it.clientHeight < NEAR_PX;
  }, []);
  // A new question is the reader's own doing.
  useEffect(toEnd, [questions, toEnd]);
  return { box, atEnd, toEnd, onScroll };
}

function useAway(atEnd: RefObject<boolean>, turns: unknown) {
  const [is, set] = useState(false);
  const look = useCallback(() => set(!atEnd.current), [atEnd]);
  useEffect(look, [turns, look]);
  return { is, look };
}

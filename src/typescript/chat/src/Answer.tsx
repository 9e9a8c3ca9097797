/** A turn of the conversation, and what can be done with it. */
import { type ComponentProps, memo, useState } from "react";
import Markdown, { type Components, type ExtraProps } from "react-markdown";
import rehypeHighlight from "rehype-highlight";
import remarkGfm from "remark-gfm";
import type { Turn } from "./backend";
import { copy } from "./browser";

const ENDS = {
  length: "Cut off: the answer reached its greatest length.",
  stopped: "Stopped.",
  failed: "Broke off.",
};

/** What a keyboard must be able to scroll. */
function Scrolled(props: ComponentProps<"div">) {
  return <div className="scrolled" tabIndex={0} role="group" {...props} />;
}

function Heading({ node, ...props }: ComponentProps<"h2"> & ExtraProps) {
  return <h2 {...props} className={node?.tagName} />;
}

const COMPONENTS: Components = {
  a: ({ node: _, ...props }) => <a {...props} target="_blank" rel="noopener noreferrer" />,
  // Models leave out levels; the page's own heading is the first, and all of theirs the second.
  h1: Heading,
  h2: Heading,
  h3: Heading,
  h4: Heading,
  h5: Heading,
  h6: Heading,
  img: ({ alt, src }) => (
    // Loaded, it would tell another server who reads it.
    <a href={src} target="_blank" rel="noopener noreferrer">
      {alt || "picture"}
    </a>
  ),
  input: ({ node: _, ...props }) => <input {...props} aria-label={props.checked ? "done" : "to do"} />,
  pre: ({ node: _, ...props }) => (
    <Scrolled aria-label="Code">
      <pre {...props} />
    </Scrolled>
  ),
  table: ({ node: _, ...props }) => (
    <Scrolled aria-label="Table">
      <table {...props} />
    </Scrolled>
  ),
};

/** HTML in an answer is shown as text, never run: react-markdown's default. */
const Written = memo(({ text }: { text: string }) => (
  <Markdown remarkPlugins={[remarkGfm]} rehypePlugins={[rehypeHighlight]} components={COMPONENTS}>
    {text}
  </Markdown>
));

/** What a reasoning model thinks comes first, between marks; the end mark may be still to come. */
const THOUGHT = /^\s*<think>([\s\S]*?)(?:<\/think>|$)/;

export const Answer = memo(
  (props: { turn: Turn; onRegenerate?: (() => void) | undefined; onContinue?: (() => void) | undefined }) => {
    const { content, cut, dropped } = props.turn;
    const thought = THOUGHT.exec(content);
    const text = thought ? content.slice(thought[0].length) : content;
    return (
      <article className="assistant" aria-label="Model">
        {dropped && <p className="hint">The model no longer sees the first {dropped} messages.</p>}
        {thought && (
          <details>
            <summary>Reasoning</summary>
            <Written text={thought[1] ?? ""} />
          </details>
        )}
        <Written text={text} />
        {cut && <p className="hint cut">{ENDS[cut]}</p>}
        <div className="actions">
          <Copy text={text} />
          {props.onRegenerate && <Act name="Regenerate" onAct={props.onRegenerate} />}
          {cut && props.onContinue && <Act name="Continue" onAct={props.onContinue} />}
        </div>
      </article>
    );
  },
);

export const Question = memo((props: { text: string; onEdit?: (() => void) | undefined }) => (
  <article className="user" aria-label="You">
    <p>{props.text}</p>
    <div className="actions">
      <Copy text={props.text} />
      {props.onEdit && <Act name="Edit" onAct={props.onEdit} />}
    </div>
  </article>
));

function Act({ name, onAct }: { name: string; onAct: () => void }) {
  return (
    <button type="button" className="act" onClick={onAct}>
      {name}
    </button>
  );
}

function Copy({ text }: { text: string }) {
  const [said, setSaid] = useState("Copy");
  async function onCopy() {
    setSaid((await copy(text)) ? "Copied" : "Not copied");
    setTimeout(() => setSaid("Copy"), 1500);
  }
  return <Act name={said} onAct={() => void onCopy()} />;
}

/** The list of conversations: open, search, delete. */
import { useState } from "react";
import { type Conversation, mentions, titleOf } from "./conversations";

export function Conversations(props: {
  conversations: Conversation[];
  current: string;
  onNew: () => void;
  onOpen: (id: string) => void;
  onDelete: (id: string) => void;
  onExport: () => void;
}) {
  const [wanted, setWanted] = useState("");
  const shown = wanted.trim() ? props.conversations.filter((it) => mentions(it, wanted)) : props.conversations;
  return (
    <nav aria-label="Conversations">
      <button type="button" onClick={props.onNew}>
        New conversation
      </button>
      <input
        type="search"
        aria-label="Search conversations"
        placeholder="Search"
        value={wanted}
        onChange={(event) => setWanted(event.target.value)}
      />
      <ul>
        {shown.map((conversation) => (
          <li key={conversation.id}>
            <button
              type="button"
              className="open"
              aria-current={conversation.id === props.current ? "page" : undefined}
              onClick={() => props.onOpen(conversation.id)}
            >
              {titleOf(conversation)}
            </button>
            <button
              type="button"
              className="delete"
              aria-label={`Delete: ${titleOf(conversation)}`}
              onClick={() => props.onDelete(conversation.id)}
            >
              ×
            </button>
          </li>
        ))}
      </ul>
      <button type="button" className="act" onClick={props.onExport}>
        Export this conversation
      </button>
    </nav>
  );
}

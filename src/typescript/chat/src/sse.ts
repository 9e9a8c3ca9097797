/** Server-sent events from text, however the text was cut.  Pure. */

export interface SseEvent {
  kind: string;
  data: string;
}

/** Turns a stream into events: `feed()` each piece as it arrives. */
export class SseDecoder {
  private rest = "";

  /** Return the events that `piece` completes. */
  feed(piece: string): SseEvent[] {
    const blocks = (this.rest + piece).split("\n\n");
    this.rest = blocks.pop() ?? "";
    return blocks.map(eventOf).filter((event) => event.data !== "");
  }
}

function eventOf(block: string): SseEvent {
  let kind = "message";
  const data: string[] = [];
  for (const line of block.split("\n")) {
    if (line.startsWith("event:")) kind = line.slice(6).trim();
    if (line.startsWith("data:")) data.push(line.slice(5).replace(/^ /, ""));
  }
  return { kind, data: data.join("\n") };
}

/** Server-sent events out of the bytes of an answer, as they come. `stream.ts` feeds it. */

import { Fault } from "./fault";

/** One event: `name` is empty where the server names none. */
export interface ServerEvent {
  readonly name: string;
  readonly data: string;
}

/** Characters of one event; more is no token. */
const LONGEST = 4 * 1024 * 1024;
const LINE_END = /\r\n|\n|\r/;

/** Incremental, after the WHATWG's rules: CRLF, LF or CR, several data lines, comments, UTF-8 split anywhere. */
export class EventParser {
  readonly #decoder = new TextDecoder("utf-8");
  #rest = "";
  #name = "";
  #data: string[] = [];
  #size = 0;
  /** The last piece ended in CR: a LF that follows belongs to it. */
  #afterReturn = false;

  constructor(private readonly longest: number = LONGEST) {}

  /** The events that these bytes complete. Throws a Fault for one that is too long. */
  push(chunk: Uint8Array): readonly ServerEvent[] {
    let text = this.#decoder.decode(chunk, { stream: true });
    if (text === "") return [];
    if (this.#afterReturn && text.startsWith("\n")) text = text.slice(1);
    this.#afterReturn = text.endsWith("\r");
    const lines = text.split(LINE_END);
    lines[0] = this.#rest + (lines[0] ?? "");
    this.#rest = lines.pop() ?? "";
    const events = lines.flatMap((line) => this.#line(line));
    if (this.#size + this.#rest.length > this.longest) throw tooLong(this.longest);
    return events;
  }

  /** At the end of the answer: an event that nothing ended is dropped, unless it is the end mark. */
  end(): readonly ServerEvent[] {
    const last = this.#line(this.#rest + this.#decoder.decode());
    const open = this.#line("").filter((event) => event.data === "[DONE]");
    this.#rest = "";
    return [...last, ...open];
  }

  #line(line: string): readonly ServerEvent[] {
    if (line === "") return this.#dispatch();
    if (line.startsWith(":")) return [];
    const colon = line.indexOf(":");
    const field = colon === -1 ? line : line.slice(0, colon);
    const value = colon === -1 ? "" : line.slice(line[colon + 1] === " " ? colon + 2 : colon + 1);
    if (field === "event") this.#name = value;
    if (field === "data") {
      this.#data.push(value);
      this.#size += value.length + 1;
      if (this.#size > this.longest) throw tooLong(this.longest);
    }
    return [];
  }

  #dispatch(): readonly ServerEvent[] {
    const event = { name: this.#name, data: this.#data.join("\n") };
    const any = this.#data.length > 0;
    this.#name = "";
    this.#data = [];
    this.#size = 0;
    return any ? [event] : [];
  }
}

function tooLong(longest: number): Fault {
  return new Fault(
    "protocol",
    `The server sent an event of more than ${longest} characters.`,
    "Is the address that of an AiCockpit server? Check the connection.",
  );
}

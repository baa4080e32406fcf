/** Reads answers without trusting them: what is not there, or of another kind, is named in a Fault. */

import { Fault } from "./fault";

const FIX = "The server may be older or newer than this extension, or no AiCockpit server. Check the connection.";

/** A Fault of kind `protocol`: what was wrong in the answer. */
export function misshapen(what: string): Fault {
  return new Fault("protocol", `The server's answer makes no sense: ${what}.`, FIX);
}

/** The fields of a JSON object, each read as what it should be. `at` says where it stands, for the error. */
export class Fields {
  readonly #values: Readonly<Record<string, unknown>>;

  constructor(
    value: unknown,
    private readonly at: string,
  ) {
    if (typeof value !== "object" || value === null || Array.isArray(value)) {
      throw misshapen(`${at} is ${kindOf(value)} where an object belongs`);
    }
    this.#values = value as Readonly<Record<string, unknown>>;
  }

  has(name: string): boolean {
    return this.#values[name] !== undefined && this.#values[name] !== null;
  }

  names(): readonly string[] {
    return Object.keys(this.#values);
  }

  text(name: string, otherwise?: string): string {
    return this.#read(name, "string", "a text", otherwise);
  }

  number(name: string, otherwise?: number): number {
    const value = this.#read(name, "number", "a number", otherwise);
    if (!Number.isFinite(value)) throw misshapen(`${this.at}.${name} is no finite number`);
    return value;
  }

  flag(name: string, otherwise?: boolean): boolean {
    return this.#read(name, "boolean", "true or false", otherwise);
  }

  /** Undefined where it is missing or null; something else than a text is still wrong. */
  maybeText(name: string): string | undefined {
    return this.has(name) ? this.text(name) : undefined;
  }

  maybeNumber(name: string): number | undefined {
    return this.has(name) ? this.number(name) : undefined;
  }

  maybeFlag(name: string): boolean | undefined {
    return this.has(name) ? this.flag(name) : undefined;
  }

  fields(name: string): Fields {
    return new Fields(this.#values[name], `${this.at}.${name}`);
  }

  maybeFields(name: string): Fields | undefined {
    return this.has(name) ? this.fields(name) : undefined;
  }

  /** Each element through `read`; a missing list is an error unless `optional`. */
  list<T>(name: string, read: (value: unknown, at: string) => T, optional = false): readonly T[] {
    const value = this.#values[name];
    if (optional && (value === undefined || value === null)) return [];
    if (!Array.isArray(value)) throw misshapen(`${this.at}.${name} is ${kindOf(value)} where a list belongs`);
    return value.map((element, index) => read(element, `${this.at}.${name}[${index}]`));
  }

  #read(name: string, kind: "string", should: string, otherwise?: string): string;
  #read(name: string, kind: "number", should: string, otherwise?: number): number;
  #read(name: string, kind: "boolean", should: string, otherwise?: boolean): boolean;
  #read(name: string, kind: string, should: string, otherwise?: unknown): unknown {
    const value = this.#values[name] ?? otherwise;
    if (typeof value !== kind) throw misshapen(`${this.at}.${name} is ${kindOf(value)} where ${should} belongs`);
    return value;
  }
}

/** An element of a list that is a text. */
export function text(value: unknown, at: string): string {
  if (typeof value !== "string") throw misshapen(`${at} is ${kindOf(value)} where a text belongs`);
  return value;
}

/** JSON, or a Fault that says what came instead. */
export function parseJson(body: string, contentType: string): unknown {
  try {
    return JSON.parse(body);
  } catch {
    if (looksLikePage(body, contentType)) {
      throw new Fault(
        "protocol",
        "A web page came back instead of an answer.",
        "The address may be that of another program, or a login page stands in between. Give the address that " +
          "`aicockpit serve` printed.",
        undefined,
        "html",
      );
    }
    throw misshapen(body === "" ? "it is empty" : `it is not JSON but “${clip(body)}”`);
  }
}

/** A page for people, as servers and proxies send them. */
export function looksLikePage(body: string, contentType: string): boolean {
  return contentType.includes("text/html") || /^\s*<(?:!doctype|html)/i.test(body);
}

function clip(body: string): string {
  const line = body.replace(/\s+/g, " ").trim();
  return line.length > 60 ? `${line.slice(0, 59)}…` : line;
}

function kindOf(value: unknown): string {
  if (value === undefined) return "missing";
  if (value === null) return "null";
  if (Array.isArray(value)) return "a list";
  return typeof value === "string" ? "a text" : typeof value === "object" ? "an object" : `a ${typeof value}`;
}

/** Sources of documentation in words: what an address means, how far one is, what became of it. */

import type { DocSource } from "../../api/gateway";

/** What a user typed as an address: good, or why not. */
export type Asked =
  | { readonly kind: "url"; readonly url: string; readonly name: string }
  | { readonly kind: "wrong"; readonly why: string };

const LONGEST_NAME = 100;

/** Understands an address as people type it; `https://` may be left out. */
export function askedFor(text: string): Asked {
  const typed = text.trim();
  if (typed === "") return { kind: "wrong", why: "Type the address of the documentation." };
  if (/\s/.test(typed)) return { kind: "wrong", why: "An address has no spaces." };
  const whole = /^[a-z][a-z0-9+.-]*:\/\//i.test(typed) ? typed : `https://${typed}`;
  let url: URL;
  try {
    url = new URL(whole);
  } catch {
    return { kind: "wrong", why: "This is not an address. It looks like https://docs.example.org/guide/." };
  }
  if (url.protocol !== "https:" && url.protocol !== "http:")
    return { kind: "wrong", why: "Only http and https addresses are read. For files, add a folder or an archive." };
  if (url.username !== "" || url.password !== "")
    return { kind: "wrong", why: "Leave the user name and the password out: they are sent nowhere." };
  if (!/[.:]/.test(url.hostname) && url.hostname !== "localhost")
    return { kind: "wrong", why: `${url.hostname} is not a whole host name.` };
  return { kind: "url", url: url.href, name: nameOfUrl(url) };
}

/** `docs.example.org/guide` without what says nothing. */
function nameOfUrl(url: URL): string {
  const host = url.hostname.replace(/^(?:www|docs?)\.(?=[^.]+\.)/, "");
  const parts = url.pathname
    .split("/")
    .filter((part) => part !== "" && !/^(?:index\.html?|en|latest|stable|docs?)$/.test(part));
  return [host, ...parts.slice(0, 2)].join("/").slice(0, LONGEST_NAME);
}

/** A name that is not taken: `Guide`, `Guide 2`. */
export function freeName(name: string, sources: readonly DocSource[]): string {
  const taken = new Set(sources.map((source) => source.name.toLowerCase()));
  const base = name.trim().slice(0, LONGEST_NAME - 4) || "Documentation";
  let found = base;
  for (let number = 2; taken.has(found.toLowerCase()); number += 1) found = `${base} ${number}`;
  return found;
}

/** Why a name cannot be one, or undefined. */
export function wrongName(name: string, sources: readonly DocSource[]): string | undefined {
  const typed = name.trim();
  if (typed === "") return "Type a name.";
  if (typed.length > LONGEST_NAME) return `At most ${LONGEST_NAME} characters.`;
  const same = sources.some((source) => source.name.toLowerCase() === typed.toLowerCase());
  return same ? "There is documentation of this name already." : undefined;
}

export function isWorking(source: DocSource): boolean {
  return source.state === "queued" || source.state === "fetching" || source.state === "indexing";
}

/** One line while it is read: `42 of 130 pages, intro.html`. */
export function progressText(source: DocSource): string {
  if (source.state === "queued") return "waiting for its turn";
  const known = source.progress?.known ?? 0;
  const pages = known > source.pages ? `${source.pages} of ${known} known pages` : count(source.pages, "page");
  const current = lastPart(source.progress?.current ?? "");
  if (source.state === "indexing") return `indexing ${pages}`;
  return current === "" ? pages : `${pages}, ${current}`;
}

/** Per cent of what is known; it may fall when more pages are found. Undefined: nothing is known yet. */
export function share(source: DocSource): number | undefined {
  const known = source.progress?.known ?? 0;
  if (known <= 0) return undefined;
  return Math.min(100, Math.round((100 * source.pages) / known));
}

/** What became of it, in one sentence, and whether somebody should look at the problems. */
export function endText(source: DocSource): { readonly text: string; readonly kind: "good" | "warning" | "error" } {
  const pages = count(source.pages, "page");
  const left = source.problems.length;
  const out = left === 0 ? "" : ` ${left === 1 ? "One thing was" : `${left} things were`} left out.`;
  if (source.state === "failed")
    return { text: `“${source.name}” could not be read: ${source.error ?? "no reason was given"}`, kind: "error" };
  if (source.state === "cancelled") return { text: `“${source.name}” was stopped; ${pages} kept.`, kind: "warning" };
  if (source.error !== undefined) return { text: `“${source.name}”: ${source.error}`, kind: "warning" };
  return {
    text: `“${source.name}” is ready: ${pages}. Type @docs in a chat to use it.${out}`,
    kind: left === 0 ? "good" : "warning",
  };
}

/** For the list: state, pages, what is wrong. */
export function detail(source: DocSource): string {
  if (isWorking(source)) return progressText(source);
  const left = source.problems.length === 0 ? "" : `, ${count(source.problems.length, "problem")}`;
  if (source.state === "failed") return `failed: ${source.error ?? "no reason was given"}`;
  const pages = `${count(source.pages, "page")}, ${count(source.chunks, "section")}`;
  return `${source.state === "cancelled" ? "stopped, " : ""}${pages}${left}`;
}

/** The icon of a state, by the editor's name for it. */
export function icon(source: DocSource): string {
  if (isWorking(source)) return "sync~spin";
  if (source.state === "failed") return "error";
  return source.state === "cancelled" || source.error !== undefined ? "warning" : "book";
}

/** What was left out, as a document to read. */
export function problemsText(source: DocSource): string {
  const lines = [`# ${source.name}`, "", `From ${source.from}. ${detail(source)}.`, ""];
  if (source.error !== undefined) lines.push(source.error, "");
  if (source.problems.length === 0) lines.push("Nothing was left out.");
  else lines.push("Left out:", "", ...source.problems.map((problem) => `- ${problem}`));
  return `${lines.join("\n")}\n`;
}

/** Only sites are read again: an upload is uploaded again. */
export function isSite(source: DocSource): boolean {
  return /^https?:\/\//i.test(source.from);
}

function count(number: number, what: string): string {
  return `${number} ${what}${number === 1 ? "" : "s"}`;
}

function lastPart(url: string): string {
  return url.replace(/\/+$/, "").split("/").pop() ?? "";
}

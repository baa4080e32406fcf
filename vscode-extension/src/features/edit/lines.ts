/** Lines of text, without their ends: what all of the edit feature works on. */

/** Whatever ends its lines; a text that ends with a newline has an empty last line. */
export function splitLines(text: string): readonly string[] {
  return text.split(/\r\n|\r|\n/);
}

export function sameLines(one: readonly string[], other: readonly string[]): boolean {
  return one.length === other.length && one.every((line, at) => line === other[at]);
}

/** Whether `part` stands in `lines` at `at`. */
export function standsAt(lines: readonly string[], at: number, part: readonly string[]): boolean {
  return at >= 0 && at + part.length <= lines.length && part.every((line, index) => line === lines[at + index]);
}

/** The white space a line begins with. */
export function indentOf(line: string): string {
  return /^[ \t]*/.exec(line)?.[0] ?? "";
}

export function isBlank(line: string): boolean {
  return line.trim() === "";
}

/** Whether it says anything: a letter or a digit, not only brackets and the like. */
export function hasContent(line: string): boolean {
  return /[\p{L}\p{N}]/u.test(line);
}

/** Whether one is likely a changed form of the other: half of the longer one is a common beginning and end. */
export function alike(one: string, other: string): boolean {
  const a = one.trim();
  const b = other.trim();
  if (a === b) return true;
  if (!hasContent(a) || !hasContent(b)) return false;
  const shorter = Math.min(a.length, b.length);
  const longer = Math.max(a.length, b.length);
  if (shorter * 2 < longer) return false;
  let head = 0;
  while (head < shorter && a[head] === b[head]) head++;
  let tail = 0;
  while (tail < shorter - head && a[a.length - 1 - tail] === b[b.length - 1 - tail]) tail++;
  return (head + tail) * 2 >= longer;
}

/** A lasting name of a document for the server's slots: FNV-1a, 32 bits as hex digits. */
export function shortHash(text: string): string {
  let hash = 0x811c9dc5;
  for (let at = 0; at < text.length; at++) hash = Math.imul(hash ^ text.charCodeAt(at), 0x01000193);
  return (hash >>> 0).toString(16).padStart(8, "0");
}

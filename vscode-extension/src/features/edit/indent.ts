/** Gives an answer the indentation of what it replaces: models drop the common one, or only the first line's. */

import { indentOf, isBlank } from "./lines";

/** A line after which a deeper one is expected. */
const OPENS = /(?:[:{([]|=>|\b(?:do|then|begin|else))\s*(?:#.*|\/\/.*)?$/;
const USUAL_UNIT = 4;

/**
 * `lines` with the original's kind of indentation (tabs, spaces) and depth. `around` tells the file's habits where the
 * original has none. Undefined: two lines are needed to tell, and there may be more to come (`done` false).
 */
export function reindent(
  lines: readonly string[],
  original: readonly string[],
  around: readonly string[],
  done: boolean,
): readonly string[] | undefined {
  const habit = original.some((line) => indentOf(line) !== "" && !isBlank(line)) ? original : [...original, ...around];
  const alike = sameCharacters(lines, habit);
  return deepened(alike, original, unitOf([...habit, ...alike]), done);
}

function sameCharacters(lines: readonly string[], habit: readonly string[]): readonly string[] {
  const theirs = characters(habit);
  const ours = characters(lines);
  if (theirs === "tabs" && ours === "spaces") {
    const unit = unitOf(lines);
    return lines.map((line) => indented(line, (indent) => spacesToTabs(indent, unit)));
  }
  if (theirs === "spaces" && ours === "tabs") {
    const unit = unitOf(habit);
    return lines.map((line) => indented(line, (indent) => indent.replaceAll("\t", " ".repeat(unit))));
  }
  return lines;
}

function indented(line: string, change: (indent: string) => string): string {
  const indent = indentOf(line);
  return change(indent) + line.slice(indent.length);
}

function spacesToTabs(indent: string, unit: number): string {
  return "\t".repeat(Math.floor(indent.length / unit)) + " ".repeat(indent.length % unit);
}

function characters(lines: readonly string[]): "tabs" | "spaces" | "both" | "none" {
  const tabs = lines.some((line) => line.startsWith("\t"));
  // One space alone is no indentation: the second line of a block comment has it.
  const spaces = lines.some((line) => /^ {2,}\S/.test(line));
  return tabs ? (spaces ? "both" : "tabs") : spaces ? "spaces" : "none";
}

/** Spaces of one step: the greatest common divisor of the indentations. */
function unitOf(lines: readonly string[]): number {
  const widths = lines.filter((line) => /^ {2,}\S/.test(line)).map((line) => indentOf(line).length);
  const unit = widths.reduce((one, other) => divisor(one, other), 0);
  return unit >= 2 && unit <= 8 ? unit : USUAL_UNIT;
}

function divisor(one: number, other: number): number {
  return other === 0 ? one : divisor(other, one % other);
}

function deepened(
  lines: readonly string[],
  original: readonly string[],
  unit: number,
  done: boolean,
): readonly string[] | undefined {
  const spoken = lines.filter((line) => !isBlank(line));
  const [first, second] = spoken;
  const wanted = commonIndent(original);
  if (first === undefined) return lines;
  const top = indentOf(original.find((line) => !isBlank(line)) ?? wanted);
  if (indentOf(first).length >= wanted.length) return shifted(lines, excess(spoken, original, wanted));
  if (second === undefined) {
    if (!done) return undefined;
    return lines.map((line) => (isBlank(line) ? line : top + line.trimStart()));
  }
  if (onlyFirst(first, second, wanted, top, top.startsWith("\t") ? 1 : unit)) {
    const at = lines.indexOf(first);
    return lines.map((line, index) => (index === at ? top + line.trimStart() : line));
  }
  const lost = wanted.slice(0, wanted.length - indentOf(first).length);
  return lines.map((line) => (isBlank(line) ? line : lost + line));
}

/** Whether the first line alone has lost its indentation: the second one is as deep as it should be below it. */
function onlyFirst(first: string, second: string, wanted: string, top: string, unit: number): boolean {
  const below = indentOf(second).length;
  if (below < wanted.length) return false;
  return !OPENS.test(first) || below - top.length === unit;
}

/**
 * Characters by which all lines are too deep (above 0), or too shallow (below 0), as told by those that the original
 * has too. A first line that is deep enough by itself is believed unless those say otherwise.
 */
function excess(spoken: readonly string[], original: readonly string[], wanted: string): number {
  const had = commonIndent(spoken).length - wanted.length;
  if (had === 0) return 0;
  const places = new Map(original.filter((line) => !isBlank(line)).map((line) => [line.trim(), indentOf(line).length]));
  const votes = spoken.flatMap((line) => {
    const there = places.get(line.trim());
    return there === undefined ? [] : [indentOf(line).length - there];
  });
  return votes.length > 0 && votes.every((vote) => vote === had) ? had : 0;
}

function shifted(lines: readonly string[], excess: number): readonly string[] {
  if (excess === 0) return lines;
  if (excess > 0) return lines.map((line) => (isBlank(line) ? line : line.slice(excess)));
  const character = lines.some((line) => line.startsWith("\t")) ? "\t" : " ";
  return lines.map((line) => (isBlank(line) ? line : character.repeat(-excess) + line));
}

/** The white space that all lines begin with that are not blank; of blank ones only: the longest. */
function commonIndent(lines: readonly string[]): string {
  const indents = lines.filter((line) => !isBlank(line)).map(indentOf);
  const [first] = indents;
  if (first === undefined) return lines.reduce((one, line) => (line.length > one.length ? line : one), "");
  return indents.reduce((one, other) => {
    let at = 0;
    while (at < one.length && one[at] === other[at]) at++;
    return one.slice(0, at);
  }, first);
}

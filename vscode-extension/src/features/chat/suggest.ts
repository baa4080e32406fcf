/** The rows of the popup that `@` opens. Pure. */

import { idOf, type Lines } from "../../context/mentions";
import { linesText } from "./blocks";
import type { Mention, MentionKind, Suggestion } from "./protocol";

export const MOST_ROWS = 40;

const CATEGORIES: readonly { readonly kind: MentionKind; readonly detail: string }[] = [
  { kind: "file", detail: "A file of the workspace" },
  { kind: "selection", detail: "What is selected in the editor" },
  { kind: "folder", detail: "A folder: its tree and the beginnings of its files" },
  { kind: "symbol", detail: "A function, a class, …" },
  { kind: "problems", detail: "Errors and warnings" },
  { kind: "terminal", detail: "A command's output" },
  { kind: "docs", detail: "Documentation that you added" },
];

/** The kinds whose names begin with what was typed. `selected`: the only selection; there is nothing to choose then. */
export function categoryRows(query: string, selected?: Suggestion): readonly Suggestion[] {
  return CATEGORIES.filter(({ kind }) => kind.startsWith(query.toLowerCase())).map(({ kind, detail }) => {
    const label = `@${kind}`;
    if (kind === "selection" && selected !== undefined) return { ...selected, label, detail: selected.label };
    return { id: `category:${kind}`, kind, label, detail, insert: `${label}:`, icon: kind };
  });
}

/** A path with `/`, relative to the workspace, and its URI as text. */
export function fileRow(path: string, uri: string): Suggestion {
  const name = nameOf(path);
  return { id: idOf({ kind: "file", at: uri }), kind: "file", label: name, detail: path, insert: name, icon: "file" };
}

export function folderRow(path: string, uri: string): Suggestion {
  const label = `${nameOf(path)}/`;
  return { id: idOf({ kind: "folder", at: uri }), kind: "folder", label, detail: path, insert: label, icon: "folder" };
}

/** Of the workspace's files, without the workspace itself; the shallow ones first. */
export function foldersOf(paths: readonly string[]): readonly string[] {
  const folders = new Set<string>();
  for (const path of paths) {
    for (let at = path.lastIndexOf("/"); at > 0; at = path.lastIndexOf("/", at - 1)) {
      const folder = path.slice(0, at);
      if (folders.has(folder)) break;
      folders.add(folder);
    }
  }
  const depth = (path: string): number => path.split("/").length;
  return [...folders].sort((one, other) => depth(one) - depth(other) || (one < other ? -1 : 1));
}

export function selectionRow(path: string, uri: string, lines: Lines): Suggestion {
  const where = `${path}:${linesText(lines)}`;
  const label = `${nameOf(path)}:${linesText(lines)}`;
  return {
    id: idOf({ kind: "selection", at: uri, lines }),
    kind: "selection",
    label,
    detail: where,
    insert: "",
    icon: "selection",
  };
}

export function symbolRow(name: string, container: string, path: string, uri: string, lines: Lines): Suggestion {
  const detail = [container, `${path}:${lines.from}`].filter((part) => part !== "").join(" · ");
  return {
    id: idOf({ kind: "symbol", at: uri, lines, name }),
    kind: "symbol",
    label: name,
    detail,
    insert: name,
    icon: "symbol",
  };
}

/** `at`: a file's URI, or `*`. */
export function problemsRow(
  label: string,
  at: string,
  count: { readonly errors: number; readonly warnings: number } | undefined,
): Suggestion {
  const detail = count === undefined ? label : `${count.errors} errors, ${count.warnings} warnings`;
  return { id: idOf({ kind: "problems", at }), kind: "problems", label, detail, insert: "", icon: "problems" };
}

export function terminalRow(number: number, command: string, exitCode: number | undefined): Suggestion {
  const label = command === "" ? "Last output" : command.replace(/\s+/g, " ").slice(0, 60);
  const detail =
    exitCode === undefined
      ? "running, or its end is not known"
      : exitCode === 0
        ? "ended well"
        : `exit code ${exitCode}`;
  return {
    id: idOf({ kind: "terminal", at: String(number) }),
    kind: "terminal",
    label,
    detail,
    insert: "",
    icon: "terminal",
  };
}

/** Where no shell told of its commands. */
export function terminalSelectionRow(): Suggestion {
  const id = idOf({ kind: "terminal", at: "*" });
  return {
    id,
    kind: "terminal",
    label: "Terminal",
    detail: "What is selected in the terminal",
    insert: "",
    icon: "terminal",
  };
}

export function allDocsRow(count: number | undefined): Suggestion {
  const detail = count === undefined ? "All sources" : `All ${count} sources`;
  return {
    id: idOf({ kind: "docs", at: "*" }),
    kind: "docs",
    label: "All documentation",
    detail,
    insert: "",
    icon: "docs",
  };
}

export function docsRow(id: string, name: string, detail: string): Suggestion {
  return {
    id: idOf({ kind: "docs", at: encodeURIComponent(id), name }),
    kind: "docs",
    label: name,
    detail,
    insert: "",
    icon: "docs",
  };
}

/** The chip for a row. */
export function mentionOf({ id, kind, label, detail }: Suggestion): Mention {
  return { id, kind, label, detail };
}

export function nameOf(path: string): string {
  return path.slice(path.replace(/\/$/, "").lastIndexOf("/") + 1);
}

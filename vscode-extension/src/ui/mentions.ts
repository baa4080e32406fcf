/** Finds and reads what a question can be sent with: files, folders, symbols, problems, terminal, documentation. */

import * as vscode from "vscode";
import { Fault } from "../api/fault";
import type { DocSource } from "../api/gateway";
import { folderText } from "../context/folder";
import { idOf, type Lines, type Reference, referenceOf, type Typed } from "../context/mentions";
import { docsBlock, fileBlock, folderBlock, linesText, problemsBlock, terminalBlock } from "../features/chat/blocks";
import type { Block } from "../features/chat/conversation";
import type { Surroundings } from "../features/chat/desk";
import type { Mention, MentionKind, Suggestion } from "../features/chat/protocol";
import * as rows from "../features/chat/suggest";
import { ChatFiles, pathOf, uriOf } from "./chatFiles";
import { allProblems, fullLines, problemsOf, symbolsOf } from "./chatLanguage";
import { ChatTerminal } from "./chatTerminal";
import type { Services } from "./services";

const FOLDER_CHARACTERS = 24_000;
const FOLDER_FILES = 400;
const DOCS_HITS = 6;
const DOCS_KNOWN_MS = 10_000;

export class EditorSurroundings implements Surroundings, vscode.Disposable {
  readonly files = new ChatFiles();
  readonly #terminal = new ChatTerminal();
  #docs: { readonly at: number; readonly sources: Promise<readonly DocSource[]> } | undefined;

  constructor(private readonly services: Services) {}

  dispose(): void {
    vscode.Disposable.from(this.files, this.#terminal).dispose();
  }

  async suggest(query: string, kind: MentionKind | undefined, signal: AbortSignal): Promise<readonly Suggestion[]> {
    if (kind === undefined) {
      const found = await this.#files(query);
      const [selected, ...others] = await this.#ofKind("selection", "", signal);
      const only = others.length === 0 ? selected : undefined;
      return [...rows.categoryRows(query, only), ...found].slice(0, rows.MOST_ROWS);
    }
    const found = await this.#ofKind(kind, query, signal);
    return found.slice(0, rows.MOST_ROWS);
  }

  mention(id: string): Mention | undefined {
    const reference = referenceOf(id);
    return reference === undefined ? undefined : rows.mentionOf({ ...this.#row(reference), id });
  }

  async read(id: string, question: string, signal: AbortSignal): Promise<Block> {
    const reference = referenceOf(id);
    if (reference === undefined) throw new Fault("not_found", "This is not known any more.", "Pick it again.");
    const { kind, at } = reference;
    switch (kind) {
      case "file":
      case "selection":
      case "symbol":
        return this.#readFile(id, reference);
      case "folder":
        return this.#readFolder(id, vscode.Uri.parse(at), signal);
      case "problems": {
        const uri = at === "*" ? undefined : vscode.Uri.parse(at);
        return problemsBlock(
          id,
          uri === undefined ? "the workspace" : pathOf(uri),
          await problemsOf(uri, (each) => this.files.isSecret(each)),
        );
      }
      case "terminal":
        return this.#readTerminal(id, at);
      case "docs":
        return this.#readDocs(id, reference, question, signal);
    }
  }

  async find(typed: Typed): Promise<string | undefined> {
    const { kind, argument, lines } = typed;
    const active = vscode.window.activeTextEditor;
    switch (kind) {
      case "file":
        return this.#findFile(typed, active?.document.uri, lines);
      case "folder":
        return this.#findFolder(argument, typed.loose);
      case "selection":
        return active === undefined || active.selection.isEmpty ? undefined : selectionRow(active).id;
      case "symbol": {
        const found = argument === "" ? [] : await symbolsOf(argument, active?.document);
        return (found.find(({ label }) => label === argument) ?? (typed.loose ? undefined : found[0]))?.id;
      }
      case "problems":
        return idOf({ kind, at: argument === "all" || active === undefined ? "*" : active.document.uri.toString() });
      case "terminal": {
        const last = this.#terminal.all()[0];
        return last === undefined ? idOf({ kind, at: "*" }) : idOf({ kind, at: String(last.number) });
      }
      case "docs": {
        const wanted = argument.toLowerCase();
        const sources = wanted === "" ? [] : await this.#sources();
        const source = sources.find((each) => each.name.toLowerCase() === wanted);
        if (source !== undefined) return rows.docsRow(source.id, source.name, "").id;
        return wanted === "" || typed.loose ? idOf({ kind, at: "*" }) : undefined;
      }
    }
  }

  async dropped(uri: string): Promise<string | undefined> {
    const given = vscode.Uri.parse(uri, true);
    // On a remote host the page says where the host is; here the file is this machine's.
    const here = given.scheme === "vscode-remote" ? vscode.Uri.file(given.path) : given;
    try {
      const { type } = await vscode.workspace.fs.stat(here);
      return idOf({ kind: (type & vscode.FileType.Directory) !== 0 ? "folder" : "file", at: here.toString() });
    } catch {
      const open = vscode.workspace.textDocuments.some((document) => document.uri.toString() === here.toString());
      return open ? idOf({ kind: "file", at: here.toString() }) : undefined;
    }
  }

  async show(id: string): Promise<void> {
    const reference = referenceOf(id);
    if (reference === undefined) return;
    const { kind, at, lines } = reference;
    if (kind === "folder") await vscode.commands.executeCommand("revealInExplorer", vscode.Uri.parse(at));
    else if (kind === "problems") await vscode.commands.executeCommand("workbench.actions.view.problems");
    else if (kind === "terminal") vscode.window.activeTerminal?.show(false);
    else if (kind === "docs") await vscode.commands.executeCommand("aicockpit.docs.manage");
    else await openAt(vscode.Uri.parse(at), lines);
  }

  async #files(query: string): Promise<readonly Suggestion[]> {
    const { files, uri } = await this.files.list();
    const found = files.search(query, rows.MOST_ROWS, this.files.recent);
    return found.flatMap(({ path }) => {
      const at = uri(path);
      return at === undefined ? [] : [rows.fileRow(path, at.toString())];
    });
  }

  async #ofKind(kind: MentionKind, query: string, signal: AbortSignal): Promise<readonly Suggestion[]> {
    const active = vscode.window.activeTextEditor;
    switch (kind) {
      case "file":
        return this.#files(query);
      case "folder": {
        const { folders } = await this.files.list();
        return folders.search(query, rows.MOST_ROWS).flatMap(({ path }) => {
          const at = uriOf(path);
          return at === undefined ? [] : [rows.folderRow(path, at.toString())];
        });
      }
      case "selection":
        return vscode.window.visibleTextEditors.filter((editor) => !editor.selection.isEmpty).map(selectionRow);
      case "symbol":
        return symbolsOf(query, active?.document);
      case "problems":
        return allProblems(active?.document.uri);
      case "terminal": {
        const ran = this.#terminal.all().map((each) => rows.terminalRow(each.number, each.command, each.exitCode));
        return ran.length > 0 ? ran : [rows.terminalSelectionRow()];
      }
      case "docs": {
        const sources = await this.#sources(signal);
        const named = sources.filter(({ name }) => name.toLowerCase().includes(query.toLowerCase()));
        const each = named.map((source) => rows.docsRow(source.id, source.name, docsDetail(source)));
        return each.length > 1 && query === "" ? [rows.allDocsRow(sources.length), ...each] : each;
      }
    }
  }

  #row(reference: Reference): Suggestion {
    const { kind, at, lines, name } = reference;
    switch (kind) {
      case "file":
      case "folder":
      case "selection":
      case "symbol": {
        const path = pathOf(vscode.Uri.parse(at));
        if (kind === "folder") return rows.folderRow(path, at);
        if (kind === "selection" && lines !== undefined) return rows.selectionRow(path, at, lines);
        if (kind === "symbol" && lines !== undefined) return rows.symbolRow(name ?? path, "", path, at, lines);
        const row = rows.fileRow(path, at);
        if (lines === undefined) return row;
        return { ...row, label: `${row.label}:${linesText(lines)}`, detail: `${path}:${linesText(lines)}` };
      }
      case "problems":
        return rows.problemsRow(
          at === "*" ? "All problems" : `Problems of ${rows.nameOf(pathOf(vscode.Uri.parse(at)))}`,
          at,
          undefined,
        );
      case "terminal": {
        const ran = this.#terminal.get(Number(at));
        return ran === undefined
          ? rows.terminalSelectionRow()
          : rows.terminalRow(ran.number, ran.command, ran.exitCode);
      }
      case "docs":
        return at === "*" ? rows.allDocsRow(undefined) : rows.docsRow(decodeURIComponent(at), name ?? at, "");
    }
  }

  async #readFile(id: string, reference: Reference): Promise<Block> {
    const { kind, at, name } = reference;
    const uri = vscode.Uri.parse(at);
    const { text, language } = await this.files.read(uri);
    const lines = kind === "symbol" ? await fullLines(uri, name ?? "", reference.lines) : reference.lines;
    return fileBlock({
      id,
      kind,
      path: pathOf(uri),
      language,
      text,
      lines,
      name: kind === "symbol" ? name : undefined,
    });
  }

  async #readFolder(id: string, folder: vscode.Uri, signal: AbortSignal): Promise<Block> {
    const { files, uri } = await this.files.list();
    const path = pathOf(folder);
    const whole = (vscode.workspace.workspaceFolders ?? []).some((each) => each.uri.toString() === folder.toString());
    const inside = await this.#inside(folder, path, whole, files.paths);
    if (inside.length === 0)
      throw new Fault("not_found", `${path} has no files that may be sent.`, "Nothing was sent for it.");
    const named = new Map(inside);
    const read = async (name: string): Promise<string | undefined> => {
      signal.throwIfAborted();
      const at = named.get(name) ?? uri(name);
      if (at === undefined) return undefined;
      const text = await this.files.read(at).then(
        (found) => found.text,
        () => undefined,
      );
      return text === undefined || text.includes("\0") ? undefined : text;
    };
    const { text, heads } = await folderText([...named.keys()].slice(0, FOLDER_FILES), read, FOLDER_CHARACTERS);
    return folderBlock(id, whole ? `${path} (the workspace)` : path, text, heads);
  }

  /** Names relative to the folder. A folder outside the workspace (dropped in) is searched by itself. */
  async #inside(
    folder: vscode.Uri,
    path: string,
    whole: boolean,
    known: readonly string[],
  ): Promise<readonly (readonly [string, vscode.Uri])[]> {
    if (vscode.workspace.getWorkspaceFolder(folder) === undefined) {
      const found = await vscode.workspace.findFiles(
        new vscode.RelativePattern(folder, "**/*"),
        "**/{node_modules,.git}/**",
        FOLDER_FILES,
      );
      const allowed = found.filter((each) => !this.files.isSecret(each));
      return allowed.map((each) => [each.path.slice(folder.path.length + 1), each] as const);
    }
    const several = (vscode.workspace.workspaceFolders ?? []).length > 1;
    const begin = whole ? (several ? `${vscode.workspace.getWorkspaceFolder(folder)?.name ?? ""}/` : "") : `${path}/`;
    return known.flatMap((each) => {
      const at = each.startsWith(begin) ? uriOf(each) : undefined;
      return at === undefined ? [] : [[each.slice(begin.length), at] as const];
    });
  }

  async #readTerminal(id: string, at: string): Promise<Block> {
    const ran = at === "*" ? undefined : this.#terminal.get(Number(at));
    if (ran !== undefined) return terminalBlock(id, await this.#terminal.lastOutput(ran));
    const selected = await this.#terminal.selection();
    if (selected !== undefined)
      return terminalBlock(id, { number: 0, command: "", output: selected, exitCode: undefined });
    const fix = "Run the command again with the editor's shell integration on, or copy its output into the question.";
    throw new Fault("not_found", "No output of a terminal is known.", fix);
  }

  async #readDocs(id: string, reference: Reference, question: string, signal: AbortSignal): Promise<Block> {
    const { at, name } = reference;
    const sources = at === "*" ? [] : [decodeURIComponent(at)];
    const hits = await this.services.connection.gateway.searchDocs(question, sources, DOCS_HITS, signal);
    return docsBlock(id, name ?? "your documentation", hits);
  }

  async #findFile(typed: Typed, active: vscode.Uri | undefined, lines: Lines | undefined): Promise<string | undefined> {
    const { argument, loose } = typed;
    const id = (uri: vscode.Uri): string => idOf({ kind: "file", at: uri.toString(), ...(lines && { lines }) });
    if (argument === "") return active === undefined ? undefined : id(active);
    const { files, uri } = await this.files.list();
    const [best] = files.search(argument, 1, this.files.recent);
    const exact = best !== undefined && (best.path === argument || best.path.endsWith(`/${argument}`));
    if (best !== undefined && (exact || !loose || /[./]/.test(argument))) {
      const found = uri(best.path);
      if (found !== undefined) return id(found);
    }
    // Left out of the list, but named in full: read it, which says why it may not be sent.
    const named = uriOf(argument.replace(/^\.\//, ""));
    if (named !== undefined && !argument.includes("..") && (await exists(named))) return id(named);
    return loose && !/[./\\]/.test(argument) && active !== undefined ? id(active) : undefined;
  }

  async #findFolder(argument: string, loose: boolean): Promise<string | undefined> {
    const clean = argument.replace(/^\.\/|\/+$/g, "");
    const root = vscode.workspace.workspaceFolders?.[0]?.uri;
    if (clean === "" || clean === ".")
      return root === undefined ? undefined : idOf({ kind: "folder", at: root.toString() });
    const { folders } = await this.files.list();
    const [best] = folders.search(clean, 1);
    const exact = best !== undefined && (best.path === clean || best.path.endsWith(`/${clean}`));
    const found = best !== undefined && (exact || !loose) ? uriOf(best.path) : undefined;
    return found === undefined ? undefined : idOf({ kind: "folder", at: found.toString() });
  }

  /** Kept for ten seconds: it is asked for at each key. None, where the server cannot tell. */
  async #sources(signal?: AbortSignal): Promise<readonly DocSource[]> {
    if (this.#docs === undefined || Date.now() - this.#docs.at > DOCS_KNOWN_MS) {
      this.#docs = { at: Date.now(), sources: this.services.connection.gateway.docs(signal) };
    }
    try {
      return (await this.#docs.sources).filter((source) => source.chunks > 0);
    } catch (error) {
      this.#docs = undefined;
      if (signal?.aborted !== true) this.services.log.warn(`documentation: ${String(error)}`);
      return [];
    }
  }
}

export function selectionRow(editor: vscode.TextEditor): Suggestion {
  const { document, selection } = editor;
  // A selection that ends before a line's first letter does not mean that line.
  const to =
    selection.end.character === 0 && selection.end.line > selection.start.line
      ? selection.end.line
      : selection.end.line + 1;
  return rows.selectionRow(pathOf(document.uri), document.uri.toString(), { from: selection.start.line + 1, to });
}

export async function openAt(uri: vscode.Uri, lines: Lines | undefined): Promise<void> {
  const range = lines === undefined ? undefined : new vscode.Range(lines.from - 1, 0, lines.to - 1, 10_000);
  await vscode.commands.executeCommand("vscode.open", uri, { preview: true, ...(range && { selection: range }) });
}

async function exists(uri: vscode.Uri): Promise<boolean> {
  try {
    return ((await vscode.workspace.fs.stat(uri)).type & vscode.FileType.File) !== 0;
  } catch {
    return false;
  }
}

function docsDetail(source: DocSource): string {
  return source.state === "ready" ? `${source.pages} pages` : `${source.state}, ${source.pages} pages so far`;
}

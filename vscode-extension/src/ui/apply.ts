/** Puts an answer's code into a file: a diff first, then, when accepted, one edit that undo takes back. */

import * as vscode from "vscode";
import { Fault } from "../api/fault";
import { referenceOf } from "../context/mentions";
import { clean, sentPaths, type Target, targetOf } from "../features/chat/apply";
import type { Acts } from "../features/chat/desk";
import { staysIn } from "../features/chat/files";
import { smallestChange } from "../features/chat/insert";
import { merge, type Selected } from "../features/chat/merge";
import { type ChatFiles, pathOf, uriOf } from "./chatFiles";

const SCHEME = "aicockpit-proposal";

interface Proposal {
  readonly uri: vscode.Uri;
  readonly file: vscode.Uri;
  decide(accepted: boolean): void;
}

interface Proposed {
  readonly text: string;
  readonly why: string;
}

interface Place {
  readonly uri: vscode.Uri;
  readonly path: string;
  /** Undefined: the file does not exist yet. */
  readonly document: vscode.TextDocument | undefined;
}

/** The open proposals, and the two commands that decide about the one on the screen. */
export class Applier implements vscode.Disposable {
  readonly #texts = new Map<string, string>();
  readonly #open = new Map<string, Proposal>();
  #count = 0;
  readonly #disposable: vscode.Disposable;

  constructor(private readonly files: ChatFiles) {
    this.#disposable = vscode.Disposable.from(
      vscode.workspace.registerTextDocumentContentProvider(SCHEME, {
        provideTextDocumentContent: (uri) => this.#texts.get(uri.toString()) ?? "",
      }),
      vscode.commands.registerCommand("aicockpit.apply.accept", () => this.#here()?.decide(true)),
      vscode.commands.registerCommand("aicockpit.apply.discard", () => this.#here()?.decide(false)),
      vscode.window.tabGroups.onDidChangeTabs(({ closed }) => {
        for (const tab of closed) this.#open.get(proposalIn(tab) ?? "")?.decide(false);
        void this.#tellContext();
      }),
      vscode.window.tabGroups.onDidChangeTabGroups(() => void this.#tellContext()),
    );
  }

  dispose(): void {
    for (const proposal of this.#open.values()) proposal.decide(false);
    this.#disposable.dispose();
  }

  readonly apply: Acts["apply"] = async (block, { answer, mentions, blocks }, hear, decided) => {
    const active = vscode.window.activeTextEditor?.document.uri;
    const inside = active !== undefined && vscode.workspace.getWorkspaceFolder(active) !== undefined;
    const clues = { answer, sent: sentPaths(mentions), active: inside ? pathOf(active) : undefined };
    const target = targetOf(block, clues) ?? (await this.#choose(clues.sent, block.code));
    if (target === undefined) return hear("rejected", "No file was chosen");
    const place = await this.#place(target);
    const selected = blocks
      .map((each) => selectionIn(each.id, each.text, place.uri))
      .find((each) => each !== undefined);
    const before = place.document?.getText() ?? "";
    const after = await proposed(before, target.code, place, selected);
    if (after === undefined) return hear("rejected", place.path);
    if (after === "same") return hear("applied", `${place.path} has it already`);
    hear("shown", place.path);
    if (!(await this.#ask(place, before, after, decided))) return hear("rejected", place.path);
    await write(place, before, after.text);
    hear("applied", place.path);
  };

  async #choose(sent: readonly string[], code: string): Promise<Target | undefined> {
    const open = vscode.window.tabGroups.all.flatMap((group) => group.tabs.map((tab) => tab.input));
    const tabs = open.flatMap((input) =>
      input instanceof vscode.TabInputText && input.uri.scheme === "file" ? [pathOf(input.uri)] : [],
    );
    const { files } = await this.files.list();
    const first = [...new Set([...sent, ...tabs, ...this.files.recent])];
    const rest = files.paths.filter((path) => !first.includes(path)).slice(0, 5_000);
    const other = "$(new-file) A new file…";
    const picked = await vscode.window.showQuickPick([other, ...first, ...rest], {
      placeHolder: "Into which file?",
      title: "Apply to a file",
    });
    if (picked === undefined) return undefined;
    if (picked !== other) return { path: picked, why: "chosen", code };
    const path = await vscode.window.showInputBox({
      title: "Apply to a new file",
      prompt: "Its path in the workspace",
      validateInput: (text) =>
        clean(text) === undefined ? "A path inside the workspace, such as src/new.ts" : undefined,
    });
    const inside = clean(path);
    return inside === undefined ? undefined : { path: inside, why: "chosen", code };
  }

  /** The file of this path; the only one of the workspace whose path ends so, when there is none. */
  async #place(target: Target): Promise<Place> {
    const uri = uriOf(target.path);
    if (uri === undefined)
      throw new Fault("bad_request", "No folder is open.", "Open a folder, or insert the code at the cursor.");
    const folder = vscode.workspace.getWorkspaceFolder(uri);
    if (uri.scheme === "file" && folder !== undefined && !(await staysIn(folder.uri.fsPath, uri.fsPath))) {
      const fix = "Open the file that it leads to and insert the code there.";
      throw new Fault("forbidden", `${target.path} leads out of the folder by a link.`, fix);
    }
    if (await exists(uri)) return opened(uri);
    const { files } = await this.files.list();
    const longer = files.paths.filter((path) => path.endsWith(`/${target.path}`));
    const only = longer.length === 1 ? uriOf(longer[0] ?? "") : undefined;
    return only === undefined ? { uri, path: pathOf(uri), document: undefined } : opened(only);
  }

  async #ask(place: Place, before: string, after: Proposed, fromPage: Promise<boolean>): Promise<boolean> {
    for (const other of this.#open.values()) if (other.file.toString() === place.uri.toString()) other.decide(false);
    const uri = this.#text(place.path, after.text);
    const left = place.document?.uri ?? this.#text(place.path, before);
    const name = place.path.slice(place.path.lastIndexOf("/") + 1);
    const title = place.document === undefined ? `${name} (new file)` : `${name}: proposed (${after.why})`;
    const decided = new Promise<boolean>((decide) => this.#open.set(uri.toString(), { uri, file: place.uri, decide }));
    await vscode.commands.executeCommand("vscode.diff", left, uri, title, { preview: false });
    await this.#tellContext();
    const accepted = await Promise.race([decided, fromPage]);
    this.#open.delete(uri.toString());
    await closeTabOf(uri);
    this.#texts.delete(uri.toString());
    this.#texts.delete(left.toString());
    await this.#tellContext();
    return accepted;
  }

  #text(path: string, text: string): vscode.Uri {
    const uri = vscode.Uri.from({ scheme: SCHEME, path: `/${++this.#count}/${path}` });
    this.#texts.set(uri.toString(), text);
    return uri;
  }

  #here(): Proposal | undefined {
    const tab = vscode.window.tabGroups.activeTabGroup.activeTab;
    return this.#open.get(tab === undefined ? "" : (proposalIn(tab) ?? "")) ?? [...this.#open.values()].at(-1);
  }

  async #tellContext(): Promise<void> {
    const tab = vscode.window.tabGroups.activeTabGroup.activeTab;
    const here = tab !== undefined && this.#open.has(proposalIn(tab) ?? "");
    await vscode.commands.executeCommand("setContext", "aicockpit.proposalHere", here);
  }
}

async function opened(uri: vscode.Uri): Promise<Place> {
  const path = pathOf(uri);
  const readOnly = vscode.workspace.fs.isWritableFileSystem(uri.scheme) === false || (await isReadOnly(uri));
  if (readOnly) throw new Fault("forbidden", `${path} is read-only.`, "Make it writable, or copy the code.");
  try {
    return { uri, path, document: await vscode.workspace.openTextDocument(uri) };
  } catch {
    throw new Fault("bad_request", `${path} cannot be opened as text.`, "Choose another file.");
  }
}

async function isReadOnly(uri: vscode.Uri): Promise<boolean> {
  const { permissions } = await vscode.workspace.fs.stat(uri);
  return permissions !== undefined && (permissions & vscode.FilePermission.Readonly) !== 0;
}

async function exists(uri: vscode.Uri): Promise<boolean> {
  try {
    await vscode.workspace.fs.stat(uri);
    return true;
  } catch {
    return vscode.workspace.textDocuments.some((document) => document.uri.toString() === uri.toString());
  }
}

/** Undefined: the person did not want any of the ways. */
async function proposed(
  before: string,
  code: string,
  place: Place,
  selected: Selected | undefined,
): Promise<Proposed | "same" | undefined> {
  const merged = merge(before, code, selected);
  if (merged.kind === "merged") return merged;
  if (merged.kind === "same") return "same";
  const editor = vscode.window.visibleTextEditors.find((each) => each.document === place.document);
  const ways = {
    selection: "Replace what is selected",
    cursor: "Insert at the cursor",
    end: "Add at the end",
    whole: "Replace the whole file",
  };
  const possible = [
    ...(editor === undefined ? [] : [editor.selection.isEmpty ? ways.cursor : ways.selection]),
    ways.end,
    ways.whole,
  ];
  const title = `Where in ${place.path}? ${merged.why}`;
  const way = await vscode.window.showQuickPick(possible, { title, placeHolder: "A diff comes first" });
  if (way === undefined) return undefined;
  const block = code.endsWith("\n") ? code : `${code}\n`;
  if (way === ways.whole) return { text: block, why: "the whole file" };
  if (way === ways.end)
    return { text: `${before}${before === "" || before.endsWith("\n") ? "" : "\n"}\n${block}`, why: "at the end" };
  if (editor === undefined) return undefined;
  const [from, to] = [editor.document.offsetAt(editor.selection.start), editor.document.offsetAt(editor.selection.end)];
  const whole = from === to || before.slice(0, to).endsWith("\n") ? block : code.trimEnd();
  return {
    text: before.slice(0, from) + whole + before.slice(to),
    why: way === ways.cursor ? "at the cursor" : "the selection",
  };
}

/** One edit; the document is left unsaved, so that it can be looked at and undone. */
async function write(place: Place, before: string, after: string): Promise<void> {
  const edit = new vscode.WorkspaceEdit();
  const { uri, path, document } = place;
  if (document === undefined) {
    edit.createFile(uri, { contents: new TextEncoder().encode(after), ignoreIfExists: false, overwrite: false });
    if (!(await vscode.workspace.applyEdit(edit)))
      throw new Fault("conflict", `${path} could not be created.`, "Look whether it is there already.");
    await vscode.window.showTextDocument(uri, { preview: false });
    return;
  }
  if (document.getText() !== before) {
    throw new Fault("conflict", `${path} changed while the diff was open.`, "Apply again, on what it is now.");
  }
  const { from, to, text } = smallestChange(before, after);
  edit.replace(uri, new vscode.Range(document.positionAt(from), document.positionAt(to)), text);
  if (!(await vscode.workspace.applyEdit(edit)))
    throw new Fault("conflict", `${path} could not be changed.`, "It may be read-only; copy the code.");
  const editor = await vscode.window.showTextDocument(document, { preview: false });
  editor.revealRange(
    new vscode.Range(document.positionAt(from), document.positionAt(from + text.length)),
    vscode.TextEditorRevealType.InCenterIfOutsideViewport,
  );
}

function selectionIn(id: string, text: string, uri: vscode.Uri): Selected | undefined {
  const reference = referenceOf(id);
  if (reference?.lines === undefined || reference.at !== uri.toString()) return undefined;
  return reference.kind === "selection" ? { ...reference.lines, text } : undefined;
}

function proposalIn(tab: vscode.Tab): string | undefined {
  return tab.input instanceof vscode.TabInputTextDiff ? tab.input.modified.toString() : undefined;
}

async function closeTabOf(uri: vscode.Uri): Promise<void> {
  const tabs = vscode.window.tabGroups.all.flatMap((group) => group.tabs);
  const tab = tabs.find((each) => proposalIn(each) === uri.toString());
  if (tab !== undefined) await vscode.window.tabGroups.close(tab, true);
}

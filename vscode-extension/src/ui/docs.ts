/** Documentation for `@docs`: adding a site, a folder or an archive, and the list of what there is. */

import * as vscode from "vscode";
import { Fault, isAbort } from "../api/fault";
import type { DocSource } from "../api/gateway";
import { follow } from "../features/docs/follow";
import { isArchive, PACK_LIMITS, plan, Tar, UPLOAD_BYTES } from "../features/docs/pack";
import * as sources from "../features/docs/sources";
import { walk } from "../features/docs/walk";
import { shownBytes } from "../features/figures";
import { withoutLinks } from "../features/terminal/confirm";
import { choose, complain, inform, warn } from "./say";
import type { Services } from "./services";

type Progress = vscode.Progress<{ message?: string; increment?: number }>;

const READ_ONLY = "aicockpit-docs";

/** The commands `docs.add` and `docs.manage`. */
export function register(services: Services): vscode.Disposable {
  const docs = new Docs(services);
  return vscode.Disposable.from(
    docs,
    vscode.workspace.registerTextDocumentContentProvider(READ_ONLY, docs),
    vscode.commands.registerCommand("aicockpit.docs.add", () => docs.guarded(() => docs.add())),
    vscode.commands.registerCommand("aicockpit.docs.manage", () => docs.guarded(() => docs.manage())),
  );
}

class Docs implements vscode.TextDocumentContentProvider, vscode.Disposable {
  readonly #leaving = new AbortController();
  #shown = "";

  constructor(private readonly services: Services) {}

  dispose(): void {
    this.#leaving.abort();
  }

  provideTextDocumentContent(): string {
    return this.#shown;
  }

  /** Runs a command; a fault is told with what to do. */
  async guarded(run: () => Promise<void>): Promise<void> {
    try {
      await run();
      this.services.connection.met(undefined);
    } catch (error) {
      if (isAbort(error)) return;
      this.services.connection.met(error);
      this.services.log.warn(`documentation: ${String(error)}`);
      await this.#told(error);
    }
  }

  async add(): Promise<void> {
    const known = await this.#gateway.docs();
    const choice = await vscode.window.showQuickPick(
      [
        {
          label: "$(globe) Site",
          detail: "An address; the server reads the pages below it.",
          run: () => this.#addSite(known),
        },
        {
          label: "$(folder) Folder",
          detail: "Markdown, HTML, reStructuredText and text files.",
          run: () => this.#addFolder(known),
        },
        {
          label: "$(file-zip) Archive or file",
          detail: "zip, tar or tar.gz, or one document.",
          run: () => this.#addFile(known),
        },
      ],
      { title: "Add Documentation", placeHolder: "Where is it?" },
    );
    await choice?.run();
  }

  async manage(): Promise<void> {
    for (;;) {
      const known = await this.#gateway.docs();
      const chosen = await vscode.window.showQuickPick(
        [
          ...known.map((source) => ({
            label: `$(${sources.icon(source)}) ${source.name}`,
            description: sources.detail(source),
            detail: source.from,
            source,
          })),
          { label: "$(add) Add Documentation", description: "", detail: "", source: undefined },
        ],
        {
          title: "Documentation",
          placeHolder: known.length === 0 ? "There is none yet" : "What to look at",
          matchOnDetail: true,
        },
      );
      if (chosen === undefined) return;
      if (chosen.source === undefined) return this.add();
      if (!(await this.#manageOne(chosen.source))) return;
    }
  }

  /** True: back to the list. */
  async #manageOne(source: DocSource): Promise<boolean> {
    const working = sources.isWorking(source);
    const site = sources.isSite(source);
    const actions = [
      ...(working ? [{ label: "$(debug-stop) Stop", act: () => this.#gateway.cancelDocs(source.id) }] : []),
      ...(working ? [{ label: "$(eye) Show Progress", act: async () => this.#watch(source) }] : []),
      ...(site && !working ? [{ label: "$(refresh) Read Again", act: () => this.#refresh(source) }] : []),
      ...(site ? [{ label: "$(link-external) Open", act: () => this.#open(source) }] : []),
      { label: "$(list-unordered) What Was Left Out", act: () => this.#showProblems(source) },
      { label: "$(trash) Remove", act: () => this.#remove(source) },
      { label: "$(arrow-left) Back", act: undefined },
    ];
    const chosen = await vscode.window.showQuickPick(actions, {
      title: source.name,
      placeHolder: sources.detail(source),
    });
    if (chosen === undefined) return false;
    await chosen.act?.();
    return chosen.act === undefined || /Stop|Remove/.test(chosen.label);
  }

  async #addSite(known: readonly DocSource[]): Promise<void> {
    const typed = await vscode.window.showInputBox({
      title: "Add Documentation",
      prompt: "The address of its first page. Pages in the same folder and below are read.",
      placeHolder: "https://docs.example.org/guide/",
      ignoreFocusOut: true,
      validateInput: (value) => {
        const asked = sources.askedFor(value);
        return value.trim() === "" || asked.kind === "url" ? undefined : asked.why;
      },
    });
    const asked = sources.askedFor(typed ?? "");
    if (typed === undefined || asked.kind === "wrong") return;
    const name = await this.#askName(asked.name, known);
    if (name === undefined) return;
    this.#watch(await this.#gateway.addDocs(name, asked.url));
  }

  async #addFolder(known: readonly DocSource[]): Promise<void> {
    const [folder] =
      (await vscode.window.showOpenDialog({ canSelectFolders: true, canSelectFiles: false, openLabel: "Add" })) ?? [];
    if (folder === undefined) return;
    const name = await this.#askName(lastPart(folder), known);
    if (name === undefined) return;
    const made = await this.#withProgress(`Sending “${name}”`, async (progress, signal) => {
      const content = await this.#packed(folder, progress, signal);
      progress.report({ message: shownBytes(content.length) });
      return this.#gateway.uploadDocs(name, `${lastPart(folder)}.tar.gz`, content);
    });
    this.#watch(made);
  }

  async #addFile(known: readonly DocSource[]): Promise<void> {
    const [file] = (await vscode.window.showOpenDialog({ canSelectFiles: true, openLabel: "Add" })) ?? [];
    if (file === undefined) return;
    const { size } = await vscode.workspace.fs.stat(file);
    refuseLarge(lastPart(file), size);
    const plain = isArchive(lastPart(file)) ? lastPart(file).replace(/\.(?:tar\.)?[a-z0-9]+$/i, "") : lastPart(file);
    const name = await this.#askName(plain, known);
    if (name === undefined) return;
    const made = await this.#withProgress(`Sending “${name}”`, async () =>
      this.#gateway.uploadDocs(name, lastPart(file), await vscode.workspace.fs.readFile(file)),
    );
    this.#watch(made);
  }

  async #packed(folder: vscode.Uri, progress: Progress, signal: AbortSignal): Promise<Uint8Array> {
    progress.report({ message: "looking for documents" });
    const at = (path: string) => (path === "" ? folder : vscode.Uri.joinPath(folder, path));
    const found = await walk(
      {
        list: async (path) =>
          (await vscode.workspace.fs.readDirectory(at(path))).map(([name, type]) => ({ name, kind: kindOf(type) })),
        size: async (path) => (await vscode.workspace.fs.stat(at(path))).size,
      },
      signal,
    );
    const { chosen, leftOut } = plan(found.entries, PACK_LIMITS);
    if (chosen.length === 0)
      throw new Fault(
        "bad_request",
        `${lastPart(folder)} holds no documents.`,
        "Markdown, HTML, reStructuredText and text files are read.",
      );
    for (const reason of [...leftOut, ...(found.cut === undefined ? [] : [found.cut])])
      this.services.log.info(`documentation, left out: ${reason}`);
    const tar = new Tar();
    for (const [index, { path }] of chosen.entries()) {
      signal.throwIfAborted();
      if (index % 50 === 0) progress.report({ message: `${index} of ${chosen.length} files` });
      tar.add(path, await vscode.workspace.fs.readFile(at(path)));
    }
    const content = await tar.finish();
    refuseLarge(lastPart(folder), content.length);
    return content;
  }

  #askName(suggested: string, known: readonly DocSource[]): Thenable<string | undefined> {
    return vscode.window.showInputBox({
      title: "Add Documentation",
      prompt: "Its name in @docs.",
      value: sources.freeName(suggested, known),
      ignoreFocusOut: true,
      validateInput: (value) => sources.wrongName(value, known),
    });
  }

  /** Shows how far it is until it is done; nobody waits for it. Cancelling the notification stops the reading. */
  #watch(source: DocSource): void {
    void this.guarded(async () => {
      const ended = await this.#withProgress(`Reading “${source.name}”`, async (progress, signal) => {
        let before = 0;
        const tell = (now: DocSource): void => {
          const share = sources.share(now) ?? before;
          progress.report({ message: sources.progressText(now), increment: Math.max(0, share - before) });
          before = Math.max(before, share);
        };
        const found = await follow(this.#gateway, source.id, tell, signal);
        if (found !== undefined || this.#leaving.signal.aborted || !signal.aborted) return found;
        await this.#gateway.cancelDocs(source.id);
        return this.#gateway.doc(source.id);
      });
      if (ended !== undefined) await this.#tellEnd(ended);
    });
  }

  async #tellEnd(source: DocSource): Promise<void> {
    const { text, kind } = sources.endText(source);
    const show = source.problems.length > 0 ? ["Show"] : [];
    const say = {
      good: inform,
      warning: warn,
      error: complain,
    };
    if ((await say[kind](text, ...show)) === "Show") await this.#showProblems(source);
  }

  async #refresh(source: DocSource): Promise<void> {
    await this.#gateway.refreshDocs(source.id);
    this.#watch(source);
  }

  async #open(source: DocSource): Promise<void> {
    await vscode.env.openExternal(vscode.Uri.parse(source.from, true));
  }

  async #remove(source: DocSource): Promise<void> {
    const sure = await choose(`Remove “${source.name}” from the server?`, "", "Remove");
    if (sure === "Remove") await this.#gateway.removeDocs(source.id);
  }

  /** Text of strangers: shown as plain text, never rendered. */
  async #showProblems(source: DocSource): Promise<void> {
    this.#shown = sources.problemsText((await this.#gateway.doc(source.id)) ?? source);
    const uri = vscode.Uri.from({ scheme: READ_ONLY, path: `/${source.name}.txt`, query: String(Date.now()) });
    await vscode.window.showTextDocument(await vscode.workspace.openTextDocument(uri), { preview: true });
  }

  #withProgress<T>(title: string, work: (progress: Progress, signal: AbortSignal) => Promise<T>): Thenable<T> {
    return vscode.window.withProgress(
      { location: vscode.ProgressLocation.Notification, title: withoutLinks(title), cancellable: true },
      (progress, token) => {
        const cancelled = new AbortController();
        token.onCancellationRequested(() => cancelled.abort());
        return work(progress, AbortSignal.any([cancelled.signal, this.#leaving.signal]));
      },
    );
  }

  async #told(error: unknown): Promise<void> {
    const text = error instanceof Fault ? `${error.message} ${error.fix}` : `Documentation: ${String(error)}`;
    await complain(text);
  }

  get #gateway() {
    return this.services.connection.gateway;
  }
}

function kindOf(type: vscode.FileType): "file" | "folder" | "other" {
  if ((type & vscode.FileType.SymbolicLink) !== 0) return "other";
  if ((type & vscode.FileType.Directory) !== 0) return "folder";
  return (type & vscode.FileType.File) !== 0 ? "file" : "other";
}

function lastPart(uri: vscode.Uri): string {
  return uri.path.replace(/\/+$/, "").split("/").pop() ?? "documentation";
}

function refuseLarge(name: string, bytes: number): void {
  if (bytes > UPLOAD_BYTES)
    throw new Fault(
      "bad_request",
      `${name} is too large to send: ${shownBytes(bytes)}.`,
      `At most ${shownBytes(UPLOAD_BYTES)} are taken; send a part of it.`,
    );
}

/** The panel "why slow, why nothing": an editor tab with a page, fed from the timeline and the server. */

import * as vscode from "vscode";
import { Accounts } from "../features/accounts";
import { rowOf, summariesOf } from "../features/panel";
import { decodeFromPanel, type FromPanel, type PanelRow, type ToPanel } from "../features/panelProtocol";
import { serverView } from "../features/panelServer";
import type { Trace } from "../features/timeline";
import { iconPath } from "./icon";
import { showPage } from "./page";
import type { Services } from "./services";

const TYPE = "aicockpit.panel";
const TITLE = "Why Slow, Why Nothing";
const DRAW_MS = 150;
const SERVER_MS = 5000;

export function register(services: Services): vscode.Disposable {
  let open: Panel | undefined;
  const command = vscode.commands.registerCommand(TYPE, () => {
    if (open !== undefined) return open.reveal();
    const panel = new Panel(services, () => {
      open = undefined;
    });
    open = panel;
  });
  return vscode.Disposable.from(command, { dispose: () => open?.dispose() });
}

class Panel implements vscode.Disposable {
  readonly #panel: vscode.WebviewPanel;
  readonly #disposables: vscode.Disposable[] = [];
  readonly #accounts: Accounts;
  readonly #changed = new Set<number>();
  #drawSoon: ReturnType<typeof setTimeout> | undefined;
  #asking = false;
  #askAgain = false;
  readonly #stop = new AbortController();

  constructor(
    private readonly services: Services,
    private readonly closed: () => void,
  ) {
    const { extensionUri } = services.context;
    this.#panel = vscode.window.createWebviewPanel(TYPE, `AiCockpit: ${TITLE}`, vscode.ViewColumn.Active);
    this.#panel.iconPath = iconPath(extensionUri);
    this.#accounts = new Accounts(
      (id) => services.connection.gateway.account(id, this.#stop.signal),
      (id) => this.#accountCame(id),
    );
    const timer = setInterval(() => void this.#tellServer(), SERVER_MS);
    this.#disposables.push(
      this.#panel,
      this.#panel.webview.onDidReceiveMessage((message) => this.#heard(decodeFromPanel(message))),
      this.#panel.onDidDispose(() => this.dispose()),
      this.#panel.onDidChangeViewState(() => this.#panel.visible && void this.#tellServer()),
      services.timeline.onChange((trace) => this.#traceChanged(trace)),
      services.connection.onChange(() => void this.#tellServer()),
      services.folders.onChange(() => void this.#tellServer()),
      { dispose: () => clearInterval(timer) },
    );
    showPage(this.#panel.webview, extensionUri, "panel", TITLE);
  }

  reveal(): void {
    this.#panel.reveal();
  }

  dispose(): void {
    if (this.#stop.signal.aborted) return;
    this.#stop.abort();
    clearTimeout(this.#drawSoon);
    vscode.Disposable.from(...this.#disposables).dispose();
    this.closed();
  }

  #heard(message: FromPanel | undefined): void {
    switch (message?.type) {
      case "ready":
        this.#tellRows(this.services.timeline.all());
        void this.#tellServer();
        break;
      case "seen":
        this.#accounts.want(this.#requestIds(message.ids));
        break;
      case "copy":
        void this.#copy(message.id);
        break;
      case "run":
        void vscode.commands.executeCommand(`aicockpit.${message.command}`);
        break;
    }
  }

  #requestIds(ids: readonly number[]): readonly string[] {
    const wanted = new Set(ids);
    const traces = this.services.timeline.all().filter((trace) => wanted.has(trace.id) && trace.outcome !== "running");
    return traces.map((trace) => trace.requestId).filter((id) => id !== undefined);
  }

  #accountCame(requestId: string): void {
    const trace = this.services.timeline.all().find((one) => one.requestId === requestId);
    if (trace !== undefined) this.#traceChanged(trace);
    void this.#tellServer();
  }

  #traceChanged(trace: Trace): void {
    this.#changed.add(trace.id);
    this.#drawSoon ??= setTimeout(() => {
      this.#drawSoon = undefined;
      this.#tellRows(this.services.timeline.all().filter((one) => this.#changed.has(one.id)));
      this.#changed.clear();
    }, DRAW_MS);
  }

  #row(trace: Trace): PanelRow {
    return rowOf(trace, trace.requestId === undefined ? undefined : this.#accounts.get(trace.requestId));
  }

  #tellRows(traces: readonly Trace[]): void {
    const all = this.services.timeline.all();
    this.#tell({
      type: "rows",
      rows: traces.map((trace) => this.#row(trace)),
      oldest: all.at(-1)?.id ?? 0,
      summaries: summariesOf(all.map((trace) => this.#row(trace))),
    });
  }

  /** One question at a time; what changes meanwhile is asked for once more. */
  async #tellServer(): Promise<void> {
    if (!this.#panel.visible || this.#stop.signal.aborted) return;
    if (this.#asking) {
      this.#askAgain = true;
      return;
    }
    this.#asking = true;
    this.#askAgain = false;
    const { connection, folders } = this.services;
    const { workspace, problem } = await this.#workspace(folders.status()?.name);
    const again = this.#askAgain;
    // The status bar and the line above the lanes then say what the lanes say; that news is told below, not asked for again.
    if (workspace !== undefined) folders.saw(workspace);
    this.#askAgain = again;
    this.#asking = false;
    if (this.#stop.signal.aborted) return;
    this.#tell({
      type: "server",
      server: serverView({
        address: connection.gateway.address,
        connection: connection.state,
        models: connection.state.kind === "ready" ? connection.state.models : [],
        engines: this.#accounts.engines(),
        folder: folders.status(),
        workspace,
        workspaceProblem: problem,
      }),
    });
    if (this.#askAgain) void this.#tellServer();
  }

  async #workspace(name: string | undefined) {
    const { gateway, state } = this.services.connection;
    if (name === undefined || state.kind !== "ready") return { workspace: undefined, problem: "" };
    try {
      return { workspace: await gateway.workspace(name, this.#stop.signal), problem: "" };
    } catch (error) {
      return { workspace: undefined, problem: error instanceof Error ? error.message : String(error) };
    }
  }

  async #copy(id: number | undefined): Promise<void> {
    const traces = this.services.timeline.all().filter((trace) => id === undefined || trace.id === id);
    const copied = traces.map((trace) => ({
      ...trace,
      at: new Date(trace.at).toISOString(),
      verdict: this.#row(trace).verdict,
      account: trace.requestId === undefined ? undefined : this.#accounts.get(trace.requestId),
    }));
    await vscode.env.clipboard.writeText(JSON.stringify(id === undefined ? copied : copied[0], undefined, 2));
    void vscode.window.setStatusBarMessage("Copied as JSON.", 3000);
  }

  #tell(message: ToPanel): void {
    void this.#panel.webview.postMessage(message);
  }
}

/** The server as the other adapters see it: the gateway with its key, the state that the status bar shows, the models. */

import * as vscode from "vscode";
import { type Client, createGateway } from "../api/client";
import { Fault } from "../api/fault";
import type { Model } from "../api/gateway";
import { Http } from "../api/http";
import { type Facts, Monitor } from "../api/monitor";
import { pickModel } from "../api/pick";
import type { ConnectionState } from "../features/states";
import type { Config } from "./config";
import { isDefault, optionsFor, secretName } from "./server";
import type { Connection } from "./services";

/** What the connection is made of. */
export interface ConnectionParts {
  readonly context: vscode.ExtensionContext;
  readonly log: vscode.LogOutputChannel;
  readonly config: Config;
}

const UNTRUSTED = {
  why: "This folder is not trusted, so nothing is sent to the server.",
  fix: "Trust it (“Workspaces: Manage Workspace Trust”), or open one that you trust.",
};

/** Begins to look at the server at once. */
export function createConnection(parts: ConnectionParts): Connection & vscode.Disposable {
  return new ServerConnection(parts);
}

class ServerConnection implements Connection, vscode.Disposable {
  readonly gateway: Client;
  readonly onChange: vscode.Event<ConnectionState>;
  readonly #changes = new vscode.EventEmitter<ConnectionState>();
  readonly #http = new Http();
  readonly #monitor: Monitor;
  readonly #subscriptions: vscode.Disposable[];
  readonly #config: Config;
  readonly #secrets: vscode.SecretStorage;
  readonly #log: vscode.LogOutputChannel;
  /** Settled when the key of the address in the settings has been read. */
  #reading: Promise<void>;
  /** The key, and the name of the address that it is for: it goes nowhere else. */
  #key = { name: "", text: "" };
  #settings = "";

  constructor({ context, log, config }: ConnectionParts) {
    this.#config = config;
    this.#secrets = context.secrets;
    this.#log = log;
    this.onChange = this.#changes.event;
    const options = () => optionsFor(config, config.url, this.#currentKey());
    this.#settings = this.#written();
    this.#reading = this.#readKey();
    this.gateway = createGateway(options, this.#http, () => this.#beforeSending());
    this.#monitor = new Monitor(
      (signal) => this.gateway.look(signal),
      () => this.#facts(),
      (state) => this.#entered(state),
    );
    this.#subscriptions = [
      this.#changes,
      config.onChange(() => {
        if (this.#written() !== this.#settings) this.#startOver();
      }),
      context.secrets.onDidChange((event) => {
        if (event.key === secretName(config.url)) this.#startOver();
      }),
      vscode.workspace.onDidGrantWorkspaceTrust(() => void this.#monitor.restart()),
    ];
    void this.#reading.then(() => this.#monitor.start());
  }

  get state(): ConnectionState {
    return this.#monitor.state;
  }

  models(): Promise<readonly Model[]> {
    return this.#monitor.models();
  }

  async completionModel(): Promise<Model | undefined> {
    return this.#pick("completion", this.#config.completionModel);
  }

  async chatModel(): Promise<Model | undefined> {
    return this.#pick("chat", this.#config.chatModel);
  }

  refresh(): Promise<ConnectionState> {
    return this.#monitor.refresh();
  }

  met(error: unknown): void {
    this.#monitor.met(error);
  }

  dispose(): void {
    this.#monitor.dispose();
    for (const subscription of this.#subscriptions) subscription.dispose();
    this.#http.dispose();
  }

  async #pick(role: "completion" | "chat", named: string): Promise<Model | undefined> {
    const models = await this.models();
    return models.length === 0 ? undefined : pickModel(models, role, named);
  }

  #facts(): Facts {
    return {
      hasKey: this.#currentKey() !== "",
      isDefault: isDefault(this.#config.url),
      forbidden: vscode.workspace.isTrusted ? undefined : UNTRUSTED,
    };
  }

  async #beforeSending(): Promise<void> {
    if (!vscode.workspace.isTrusted) throw new Fault("forbidden", UNTRUSTED.why, UNTRUSTED.fix);
    await this.#reading;
  }

  #currentKey(): string {
    return this.#key.name === secretName(this.#config.url) ? this.#key.text : "";
  }

  async #readKey(): Promise<void> {
    const name = secretName(this.#config.url);
    try {
      this.#key = { name, text: (await this.#secrets.get(name)) ?? "" };
    } catch (error) {
      this.#log.error("The editor's secret store cannot be read, so no key is sent:", String(error));
    }
  }

  /** All settings that say how the server is reached; without the environment, which does not change. */
  #written(): string {
    const { proxy, ...rest } = optionsFor(this.#config, this.#config.url, "");
    return JSON.stringify({ ...rest, proxy: { ...proxy, env: undefined } });
  }

  #startOver(): void {
    this.#settings = this.#written();
    this.#http.reset();
    this.#reading = this.#readKey();
    void this.#reading.then(() => this.#monitor.restart());
  }

  #entered(state: ConnectionState): void {
    this.#log.info(describe(state, this.gateway.address));
    void vscode.commands.executeCommand("setContext", "aicockpit.connected", state.kind === "ready");
    this.#changes.fire(state);
  }
}

function describe(state: ConnectionState, address: string): string {
  switch (state.kind) {
    case "ready":
      return `${address}: ready, ${state.models.map((model) => model.id).join(", ")}`;
    case "offline":
      return `${address}: ${state.why} ${state.fix}`;
    case "unauthorized":
    case "no_model":
      return `${address}: ${state.why}`;
    case "no_key":
      return `${address}: no key is set`;
    default:
      return `${address}: not looked at yet`;
  }
}

/** The settings, read in one place. */

import * as vscode from "vscode";

export type Trigger = "automatic" | "manual" | "off";
export type Multiline = "auto" | "always" | "never";

/** Typed access to `aicockpit.*`; reads the editor's settings at each call, which is a map lookup. */
export class Config {
  get url(): string {
    return this.#get("url", "").trim().replace(/\/+$/, "").replace(/\/v1$/, "");
  }
  get caFile(): string {
    return this.#get("caFile", "");
  }
  get proxy(): string {
    return this.#get("proxy", "");
  }
  get context(): string {
    return this.#get("context", "auto");
  }
  get completionModel(): string {
    return this.#get("completion.model", "");
  }
  get trigger(): Trigger {
    return this.#get("completion.trigger", "automatic");
  }
  get multiline(): Multiline {
    return this.#get("completion.multiline", "auto");
  }
  get completionMaxTokens(): number {
    return this.#get("completion.maxTokens", 96);
  }
  get candidates(): number {
    return this.#get("completion.candidates", 3);
  }
  get languages(): Readonly<Record<string, boolean>> {
    return this.#get("completion.languages", {});
  }
  get chatModel(): string {
    return this.#get("chat.model", "");
  }
  get instructions(): string {
    return this.#get("chat.instructions", "");
  }
  get chatMaxTokens(): number {
    return this.#get("chat.maxTokens", 4096);
  }
  get temperature(): number {
    return this.#get("chat.temperature", 0.2);
  }
  get nativeChat(): boolean {
    return this.#get("chat.native", true);
  }
  get sync(): "ask" | "always" | "never" {
    return this.#get("workspace.sync", "ask");
  }
  get explainCommands(): boolean {
    return this.#get("terminal.explain", true);
  }
  workspaceName(folder: vscode.Uri): string {
    return vscode.workspace.getConfiguration("aicockpit", folder).get("workspace.name", "");
  }
  async setLanguage(language: string, on: boolean): Promise<void> {
    const settings = vscode.workspace.getConfiguration("aicockpit");
    await settings.update(
      "completion.languages",
      { ...this.languages, [language]: on },
      vscode.ConfigurationTarget.Global,
    );
  }
  async setUrl(url: string): Promise<void> {
    await vscode.workspace.getConfiguration("aicockpit").update("url", url, vscode.ConfigurationTarget.Global);
  }
  onChange(listener: () => void): vscode.Disposable {
    return vscode.workspace.onDidChangeConfiguration((event) => {
      if (event.affectsConfiguration("aicockpit") || event.affectsConfiguration("http")) listener();
    });
  }
  #get<T>(name: string, fallback: T): T {
    return vscode.workspace.getConfiguration("aicockpit").get<T>(name, fallback);
  }
}

/** The editor's own chat, where it has one: a participant, and our models among those to choose from. */

import * as vscode from "vscode";
import type { Message, Model } from "../api/gateway";
import { TokenEstimate } from "../context/tokens";
import { answer } from "../features/chat/answer";
import { fileBlock } from "../features/chat/blocks";
import type { Block, KeptTurn } from "../features/chat/conversation";
import { sentenceOf } from "../features/chat/faults";
import { alternating, type HostMessage, limitsOf, nativeTurn, sentOf } from "../features/chat/native";
import { fitPrompt, messagesOf, roomOf, textOf } from "../features/chat/prompt";
import { shorten } from "../features/chat/title";
import { ChatFiles, pathOf } from "./chatFiles";
import { chatPlace } from "./chatPlace";
import type { Services } from "./services";

const VENDOR = "aicockpit";

export function register(services: Services): vscode.Disposable {
  let live: vscode.Disposable | undefined;
  const follow = (): void => {
    if (services.config.nativeChat === (live !== undefined)) return;
    live?.dispose();
    live = services.config.nativeChat ? start(services) : undefined;
  };
  follow();
  return vscode.Disposable.from(services.config.onChange(follow), { dispose: () => live?.dispose() });
}

function start(services: Services): vscode.Disposable {
  const parts: vscode.Disposable[] = [];
  try {
    if (typeof vscode.lm?.registerLanguageModelChatProvider === "function") parts.push(registerModels(services));
    if (typeof vscode.chat?.createChatParticipant === "function") parts.push(registerParticipant(services));
    if (parts.length < 2)
      services.log.info("This editor has no chat of its own for extensions; the AiCockpit view has everything.");
  } catch (error) {
    services.log.info(`The editor's own chat is not used: ${sentenceOf(error)}`);
  }
  return vscode.Disposable.from(...parts);
}

function registerModels(services: Services): vscode.Disposable {
  const changed = new vscode.EventEmitter<void>();
  const estimate = new TokenEstimate();
  const provider: vscode.LanguageModelChatProvider = {
    onDidChangeLanguageModelChatInformation: changed.event,
    async provideLanguageModelChatInformation() {
      try {
        return (await services.connection.models())
          .filter(chats)
          .map((model) => information(model, services.config.chatMaxTokens));
      } catch (error) {
        services.connection.met(error);
        return [];
      }
    },
    async provideLanguageModelChatResponse(model, messages, options, progress, token) {
      const given = alternating(messages.map(hostMessage));
      const maxTokens =
        numberIn(options.modelOptions, "max_tokens") ?? Math.min(model.maxOutputTokens, services.config.chatMaxTokens);
      const temperature = numberIn(options.modelOptions, "temperature") ?? services.config.temperature;
      const error = await run(services, model.id, given, maxTokens, temperature, token, (text) =>
        progress.report(new vscode.LanguageModelTextPart(text)),
      );
      if (error !== undefined) throw new Error(error);
    },
    async provideTokenCount(model, text) {
      return estimate.text(model.id, typeof text === "string" ? text : hostMessage(text).text);
    },
  };
  const registered = vscode.lm.registerLanguageModelChatProvider(VENDOR, provider);
  const following = services.connection.onChange(() => changed.fire());
  // Until some model was resolved, the editor answers every participant's request with "Language model unavailable".
  vscode.lm.selectChatModels({ vendor: VENDOR }).then(
    (models) => services.log.debug(`the editor's chat knows ${models.length} of our models`),
    (error: unknown) => services.log.info(`The editor's chat does not take our models: ${sentenceOf(error)}`),
  );
  return vscode.Disposable.from(registered, following, changed);
}

function registerParticipant(services: Services): vscode.Disposable {
  let files: ChatFiles | undefined;
  const estimate = new TokenEstimate();
  const handler: vscode.ChatRequestHandler = async (request, context, stream, token) => {
    try {
      const model = await modelFor(services, request);
      if (model === undefined)
        return failed("The server has no model that chats. Start one, or look at aicockpit.chat.model.");
      if (request.references.length > 0) files ??= new ChatFiles();
      const blocks = files === undefined ? [] : await referenced(files, request.references, stream);
      const turns = [...historyOf(context), nativeTurn(request.prompt, "", blocks)];
      const { instructions, chatMaxTokens, temperature } = services.config;
      const wishes = { instructions, vision: model.role === "vision" };
      const room = roomOf(model.maxLength, chatMaxTokens);
      const fitted = fitPrompt(turns, wishes, room.prompt, (text) => estimate.message(model.id, text));
      if (fitted.tooLong) return failed("The question is too long for this model. Send fewer files.");
      if (fitted.left.length > 0)
        stream.progress(`Left out, to fit into the model's length: ${fitted.left.join(", ")}`);
      const messages = messagesOf(fitted.turns, wishes);
      let text = "";
      const error = await run(services, model.id, messages, room.answer, temperature, token, (piece) => {
        text += piece;
        stream.markdown(piece);
      });
      const question = textOf(messages.at(-1)?.content ?? "");
      return { metadata: { question, answer: text }, ...(error !== undefined && { errorDetails: { message: error } }) };
    } catch (error) {
      services.connection.met(error);
      return failed(sentenceOf(error));
    }
  };
  const participant = vscode.chat.createChatParticipant("aicockpit.chat", handler);
  participant.iconPath = vscode.Uri.joinPath(services.context.extensionUri, "media", "icon.svg");
  return vscode.Disposable.from(participant, { dispose: () => files?.dispose() });
}

/** What went wrong, in a sentence; undefined: nothing. */
async function run(
  services: Services,
  model: string,
  messages: readonly Message[],
  maxTokens: number,
  temperature: number,
  token: vscode.CancellationToken,
  hear: (text: string) => void,
): Promise<string | undefined> {
  const abort = new AbortController();
  const cancelled = token.onCancellationRequested(() => abort.abort());
  if (token.isCancellationRequested) abort.abort();
  try {
    const { timeline, connection } = services;
    const place = chatPlace(services);
    const trace = timeline.begin(
      "chat",
      model,
      shorten(
        textOf(messages.at(-1)?.content ?? "")
          .split("\n")
          .at(-1) ?? "",
        80,
      ),
    );
    const request = { model, messages, maxTokens, temperature, ...(place && { place }) };
    const clock = (): number => performance.now();
    const asked = {
      gateway: connection.gateway,
      request,
      signal: abort.signal,
      timeline,
      trace,
      began: clock(),
      clock,
    };
    const { ending, error } = await answer(asked, (text) => {
      if (text !== "") hear(text);
    });
    if (ending.stopped !== true) connection.met(error);
    return ending.fault === undefined ? undefined : `${ending.fault.message} ${ending.fault.fix}`.trim();
  } finally {
    cancelled.dispose();
  }
}

/** The model picked in the editor's chat, if it is ours; else ours. */
async function modelFor(services: Services, request: vscode.ChatRequest): Promise<Model | undefined> {
  if (request.model?.vendor === VENDOR) {
    const found = (await services.connection.models()).find(({ id }) => id === request.model.id);
    if (found !== undefined) return found;
  }
  return services.connection.chatModel();
}

/** Earlier turns, as they were sent. */
function historyOf(context: vscode.ChatContext): readonly KeptTurn[] {
  const turns: KeptTurn[] = [];
  let prompt = "";
  for (const turn of context.history) {
    if (turn instanceof vscode.ChatRequestTurn) prompt = turn.prompt;
    else {
      const sent = sentOf(turn.result.metadata);
      const said = turn.response
        .map((part) => (part instanceof vscode.ChatResponseMarkdownPart ? part.value.value : ""))
        .join("");
      turns.push(nativeTurn(sent?.question ?? prompt, sent?.answer ?? said));
    }
  }
  return turns;
}

async function referenced(
  files: ChatFiles,
  references: readonly vscode.ChatPromptReference[],
  stream: vscode.ChatResponseStream,
): Promise<readonly Block[]> {
  const blocks: Block[] = [];
  for (const { id, value, modelDescription } of [...references].reverse()) {
    try {
      if (value instanceof vscode.Uri) {
        const { text, language } = await files.read(value);
        blocks.push(fileBlock({ id, kind: "file", path: pathOf(value), language, text }));
        stream.reference?.(value);
      } else if (value instanceof vscode.Location) {
        const { text, language } = await files.read(value.uri);
        const lines = { from: value.range.start.line + 1, to: value.range.end.line + 1 };
        blocks.push(fileBlock({ id, kind: "selection", path: pathOf(value.uri), language, text, lines }));
        stream.reference?.(value);
      } else if (typeof value === "string") {
        blocks.push({ id, kind: "selection", title: modelDescription ?? id, language: "", text: value });
      }
    } catch (error) {
      stream.markdown(`*${sentenceOf(error)}*\n\n`);
    }
  }
  return blocks;
}

function failed(message: string): vscode.ChatResult {
  return { errorDetails: { message } };
}

function chats({ role }: Model): boolean {
  return role === undefined || role === "chat" || role === "vision";
}

function information(model: Model, maxTokens: number): vscode.LanguageModelChatInformation {
  const { input, output } = limitsOf(model.maxLength, maxTokens);
  return {
    id: model.id,
    name: model.id,
    family: model.id,
    version: "1",
    detail: "AiCockpit",
    tooltip:
      model.maxLength === undefined
        ? "Its length is not known."
        : `${model.maxLength.toLocaleString("en")} tokens, on your own server`,
    maxInputTokens: input,
    maxOutputTokens: output,
    // Tools are not passed on. Said otherwise here, for else the editor's agent mode, which is its default, hides our models,
    // and then refuses every `@aicockpit` with "Language model unavailable".
    capabilities: { imageInput: model.role === "vision", toolCalling: true },
  };
}

function hostMessage(message: vscode.LanguageModelChatRequestMessage): HostMessage {
  const texts: string[] = [];
  const images: string[] = [];
  for (const part of message.content) {
    if (part instanceof vscode.LanguageModelTextPart) texts.push(part.value);
    else if (part instanceof vscode.LanguageModelToolResultPart) {
      texts.push(...part.content.map((each) => (each instanceof vscode.LanguageModelTextPart ? each.value : "")));
    } else if (isPicture(part))
      images.push(`data:${part.mimeType};base64,${Buffer.from(part.data).toString("base64")}`);
  }
  const { Assistant, User } = vscode.LanguageModelChatMessageRole;
  const role = message.role === Assistant ? "assistant" : message.role === User ? "user" : "system";
  return { role, text: texts.join(""), images };
}

/** A part that hosts newer than our types have. */
function isPicture(part: unknown): part is { readonly mimeType: string; readonly data: Uint8Array } {
  if (typeof part !== "object" || part === null || !("mimeType" in part) || !("data" in part)) return false;
  return typeof part.mimeType === "string" && part.mimeType.startsWith("image/") && part.data instanceof Uint8Array;
}

function numberIn(options: Readonly<Record<string, unknown>> | undefined, name: string): number | undefined {
  const value = options?.[name];
  return typeof value === "number" ? value : undefined;
}

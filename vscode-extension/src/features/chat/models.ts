/** Which model answers in the chat: the one chosen there, else that of the settings or the server's. */

import type { Model } from "../../api/gateway";
import type { Desk } from "./desk";
import type { ModelView } from "./protocol";

export interface ModelsView {
  readonly models: readonly ModelView[];
  /** The one that answers next. */
  readonly model?: string;
}

export class ChatModels {
  #known: Model | undefined;

  constructor(private readonly desk: Desk) {}

  /** The one that answers, as it was last seen: at once, and undefined before the server told. */
  get known(): Model | undefined {
    return this.#known;
  }

  /** Undefined: none is served. The one chosen in the chat counts as long as it is served. */
  async current(): Promise<Model | undefined> {
    const chosen = this.desk.memory.get("model");
    const found = chosen === "" ? undefined : (await this.desk.models()).find((model) => model.id === chosen);
    this.#known = found ?? (await this.desk.chatModel());
    return this.#known;
  }

  /** None, where the server cannot be asked. */
  async view(): Promise<ModelsView> {
    try {
      const models = (await this.desk.models()).filter(({ role }) => role !== "embedding" && role !== "rerank");
      const model = await this.current();
      return { models: models.map(viewOf), ...(model && { model: model.id }) };
    } catch (error) {
      this.desk.met(error);
      return { models: [] };
    }
  }

  /** An empty id: the person picks. */
  async choose(id: string): Promise<void> {
    const models = await this.desk.models();
    const chosen = id === "" ? await this.desk.acts.pickModel(models, this.#known?.id) : id;
    if (chosen !== undefined && models.some((model) => model.id === chosen)) this.desk.memory.set("model", chosen);
  }
}

function viewOf(model: Model): ModelView {
  const { id, maxLength, role } = model;
  return { id, vision: role === "vision", ...(maxLength !== undefined && { maxLength }) };
}

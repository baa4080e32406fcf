// The chat view: a question with @file, a streamed answer, its code applied to a file as a diff that is accepted.
import { until } from "../harness.mjs";

export default async function play({ desk, server, step, assert }) {
  const page = desk.page;
  let chat;
  await step("the chat opens in the side bar", async () => {
    await desk.clear();
    await desk.command("AiCockpit: Open Chat");
    chat = await desk.chat();
    await chat.locator("textarea").first().waitFor({ timeout: 20_000 });
    await desk.picture("chat-empty");
  });
  await step("@ offers files as one types", async () => {
    const box = chat.locator("textarea").first();
    await box.click();
    await box.pressSequentially("what does price do @file:price", { delay: 20 });
    await chat
      .getByRole("option", { name: /price\.py/ })
      .first()
      .waitFor();
    await desk.picture("chat-mention");
    await desk.keys("Enter");
    await chat.locator(".composer .chip", { hasText: "price.py" }).first().waitFor();
  });
  await step("the answer streams in, with its cost", async () => {
    await desk.keys("Enter");
    await chat.getByText("It is used by").first().waitFor({ timeout: 20_000 });
    await chat
      .getByText(/cached/)
      .first()
      .waitFor();
    await chat.locator("strong", { hasText: "amount" }).first().waitFor();
    const { body } = await server.lastRequest("/v1/chat/completions");
    const sent = Buffer.from(body, "base64").toString();
    assert.ok(sent.includes("shop/price.py") && sent.includes("self.currency = currency"), "the file was sent along");
    await desk.picture("chat");
  });
  await step("Apply shows a diff, and accepting it changes the file", async () => {
    await chat
      .getByRole("button", { name: /^Apply/ })
      .first()
      .click();
    await page.locator(".monaco-diff-editor .view-line", { hasText: '"USD"' }).first().waitFor();
    await page.locator(".monaco-diff-editor .char-insert").first().waitFor();
    await desk.picture("apply");
    await chat.getByRole("button", { name: "Accept" }).first().click();
    await page.locator(".tab.active.dirty", { hasText: "price.py" }).first().waitFor();
    await desk.focusEditor();
    await desk.save();
    await until(() => desk.read("shop/price.py").includes('currency: str = "USD"'), "the file on disk");
  });
  await step("the conversation is kept", async () => {
    await desk.command("AiCockpit: New Chat");
    await until(async () => !(await chat.getByText("It is used by").first().isVisible()), "an empty chat");
    await desk.command("AiCockpit: Earlier Chats");
    await chat.locator(".conversation", { hasText: "what does price do" }).first().click();
    await chat.getByText("It is used by").first().waitFor();
  });
}

// Why slow, why nothing.
import { until } from "../harness.mjs";

export default async function play({ desk, step, assert }) {
  await step("the panel tells each request's time", async () => {
    await desk.command("AiCockpit: Why Slow, Why Nothing");
    const panel = desk.page.frameLocator("iframe.webview").last().frameLocator("#active-frame");
    await panel.locator("li.row").first().waitFor({ timeout: 20_000 });
    assert.ok((await panel.locator("li.row").count()) >= 5);
    const states = () => panel.locator('.lanes td[data-head="State"]').allTextContents();
    await until(
      async () => (await states()).length === 2 && (await states()).every((one) => one === "warm"),
      "warm lanes",
    );
    // What is warm below is warm above, and in the status bar.
    const folder = panel.locator("dl.facts", { hasText: /project: warm 100 %/ });
    await folder.first().waitFor({ timeout: 1_000 });
    await desk.untilStatus(/: warm(?!ing)/, 1_000);
    await panel.locator("li.row .head").first().click();
    await panel.locator(".details").first().waitFor();
    await desk.picture("panel");
    await desk.keys("Control+W");
  });
}

// Every way in, by the forms: a server behind another one, a second identity, secrets that never come back.

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { Browser, LOOKS, Roundsman, Sshd, becomes, enrol, presentable, publicKey, setUp, shot } from "./harness.js";

const SECRET = "not to be seen again";

describe("ways in", () => {
  const roundsman = new Roundsman();
  const [outer, inner] = [new Sshd(), new Sshd()];
  let browser;
  let page;
  let cookies;

  before(async () => {
    await Promise.all([roundsman.start(), outer.start(), inner.start()]);
    enrol(roundsman, outer, "bastion");
    inner.authorize(publicKey(roundsman));
    browser = await Browser.launch();
    const profile = await browser.profile();
    page = await profile.newPage();
    await setUp(page, roundsman);
    cookies = await profile.cookies();
  });

  after(async () => {
    await browser?.close();
    await Promise.all([outer.remove(), inner.remove()]);
    await roundsman.remove();
  });

  test("only the fields of the chosen login are shown, and the rest waits behind one line", async () => {
    await page.goto(`${roundsman.url}/servers/new`);
    assert.equal(await page.locator("input[name=jump_host]").isVisible(), false);
    await page.check("input[name=identity][value=agent]");
    assert.equal(await page.locator("input[name=agent_key]").isVisible(), true);
    assert.equal(await page.locator("input[name=password]").isVisible(), false);
    await page.check("input[name=identity][value=kept_password]");
    assert.equal(await page.locator("input[name=password]").isVisible(), true);
    await page.locator("#more-ways summary").focus();
    await page.keyboard.press("Enter");
    assert.equal(await page.locator("input[name=jump_host]").isVisible(), true);
    assert.equal(await page.locator("input[name=action_agent_key]").isVisible(), false);
    await shot(page, "enrol-ways-light");
  });

  test("a field that cannot be meant comes back with its sentence, and no password does", async () => {
    await page.goto(`${roundsman.url}/servers/new`);
    await page.fill("input[name=hostname]", inner.address);
    await page.click("#more-ways summary");
    await page.fill("input[name=jump_host]", "nobody");
    await page.fill("input[name=proxy]", `http://me:${encodeURIComponent(SECRET)}@proxy:3128`);
    await page.fill("input[name=sudo_password]", SECRET);
    browser.expect(/status of 422/);
    await page.click("text=Check the way there");
    await becomes(page, ".field.is-wrong", /nobody.*enrol the jump host first/, 5000);
    const html = await page.content();
    assert.ok(!html.includes(SECRET) && !html.includes(encodeURIComponent(SECRET)));
    assert.equal(await page.inputValue("input[name=proxy]"), "http://me@proxy:3128");
  });

  test("a server is added behind a jump host, with another user for actions; typed secrets are asked for once more", async () => {
    await page.goto(`${roundsman.url}/servers/new`);
    await page.fill("input[name=hostname]", inner.address);
    await page.fill("input[name=name]", "inner");
    await page.click("#more-ways summary");
    await page.fill("input[name=jump_host]", "bastion");
    await page.fill("input[name=action_username]", "root");
    await page.fill("input[name=sudo_password]", SECRET);
    await page.click("text=Check the way there");
    await page.waitForSelector("#preflight .fingerprint");
    assert.ok(!(await page.content()).includes(SECRET));
    await shot(page, "enrol-ways-approve");
    await page.fill(".approve input[name=sudo_password]", SECRET);
    await page.click("text=Trust this key and add the server");
    await page.waitForURL(/\/servers\/inner/);
    await becomes(page, "#overview .share-grid", /\d+(\.\d+)?\s*%/, 15_000);
    const text = await page.textContent("#overview");
    assert.match(text, /Over the jump host\s*bastion/);
    assert.match(text, /Acts\s*as root, the default key/);
    await page.click("text=Try the way there step by step");
    await page.waitForURL(/done=tested/);
    assert.match(await page.textContent("main"), /Tried step by step/);
    await shot(page, "overview-ways-light");
  });

  for (const [look, options] of Object.entries(LOOKS)) {
    test(`the forms fit and show what is kept: ${look}`, async () => {
      const profile = await browser.profile(options);
      await profile.addCookies(cookies);
      const own = await profile.newPage();
      await own.goto(`${roundsman.url}/servers/inner/configuration`);
      assert.equal(await own.inputValue("input[name=jump_host]"), "bastion");
      assert.equal(await own.inputValue("input[name=action_username]"), "root");
      assert.equal(await own.inputValue("input[name=sudo_password]"), "");
      assert.match(await own.textContent("#more-ways"), /One is kept/);
      await presentable(own, `configuration-ways-${look}`);
      await own.goto(`${roundsman.url}/servers/new`);
      await own.click("#more-ways summary");
      await presentable(own, `enrol-ways-${look}`);
      await own.goto(`${roundsman.url}/servers/inner/commands`);
      await own.click("#more-run summary");
      await presentable(own, `commands-more-${look}`);
      await profile.close();
    });
  }

  test("a command gets a name, variables and input from the form, and its secret stays out of the page", async () => {
    await page.goto(`${roundsman.url}/servers/inner/commands`);
    await page.fill("textarea[name=command]", 'echo "$GREETING, ${#KEY} letters"; cat');
    await page.click("#more-run summary");
    await page.fill("input[name=label]", "Greet");
    await page.fill("textarea[name=environment]", "GREETING=good day");
    await page.fill("textarea[name=secret_environment]", `KEY=${SECRET}`);
    await page.fill("textarea[name=stdin]", "and good night");
    await page.click("text=Run on inner");
    await page.waitForURL(/\/operations\//);
    await becomes(page, "main", /good day, 20 letters\s+and good night/, 15_000);
    assert.match(await page.textContent("h1"), /Greet/);
    assert.ok(!(await page.content()).includes(SECRET));
  });

  test("the configuration changes the way in, and an empty field takes a part of it away", async () => {
    const logins = inner.logins();
    await page.goto(`${roundsman.url}/servers/inner/configuration`);
    await page.fill("input[name=action_username]", "");
    await page.check("input[name=forget_sudo_password]");
    await page.fill("input[name=connect_timeout_seconds]", "2.5");
    await page.click("text=Save");
    await page.waitForURL(/done=saved/);
    assert.equal(await page.inputValue("input[name=action_username]"), "");
    assert.equal(await page.inputValue("input[name=connect_timeout_seconds]"), "2.5");
    assert.equal(await page.locator("input[name=forget_sudo_password]").count(), 0);
    await page.goto(`${roundsman.url}/servers/inner`);
    await becomes(page, "#overview", /Reachable/, 15_000);
    assert.ok(inner.logins() > logins);
    await page.goto(`${roundsman.url}/servers/bastion/configuration`);
    browser.expect(/status of 409/);
    await page.check("input[name=status][value=inactive]");
    await page.click("text=Save");
    assert.match(await page.textContent("main"), /jump host of inner/);
  });

  test("no page complained", () => browser.assertQuiet());
});

"""What the tests of pages do in a browser."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any


def search(browser: Any, text: str) -> None:
    """Type into the page's search box."""
    box = browser.find_element("id", "search")
    box.clear()
    box.send_keys(text)


def click(browser: Any, selector: str) -> None:
    """Click the first element of a selector, brought into view."""
    found = browser.find_element("css selector", selector)
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", found)
    found.click()


def press(browser: Any, key: str) -> None:
    """Press a key, wherever the focus is."""
    from selenium.webdriver.common.action_chains import ActionChains

    ActionChains(browser).send_keys(key).perform()


def until(browser: Any, condition: Callable[[], bool]) -> None:
    """Wait for a condition: what a key or an address does, a page shows a little later."""
    from selenium.common.exceptions import StaleElementReferenceException
    from selenium.webdriver.support.wait import WebDriverWait

    wait = WebDriverWait(browser, 30, ignored_exceptions=[StaleElementReferenceException])
    wait.until(lambda _: condition())


def title_has_focus(browser: Any) -> bool:
    """Tell whether the heading of what is open has the focus."""
    return browser.execute_script("return document.activeElement.id") == "detail-title"


def require_fit(browser: Any) -> None:
    """Require that nothing is wider than the screen."""
    wide, screen = browser.execute_script(
        "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    )
    assert wide <= screen


def require_silence(browser: Any, page: Path) -> None:
    """Require that the console is empty, nothing was loaded and no header became markup."""
    assert browser.get_log("browser") == []
    requested = set()
    for entry in browser.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            requested.add(message["params"]["request"]["url"].split("#")[0])
    # The browser's own first tab asks for chrome: addresses.
    fetched = {url for url in requested if not url.startswith(("data:", "chrome:"))}
    assert fetched == {page.as_uri()}
    assert browser.title.endswith(" report")

"""Send a notification to one address: a signed POST to a webhook, or whatever service apprise knows."""

from __future__ import annotations

import hashlib
import hmac
import logging
import threading
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pikavae.errors import PikavaeError
from pikavae.notify.notification import Notification
from pikavae.notify.settings import Address

if TYPE_CHECKING:
    from apprise import NotifyBase

SIGNATURE_HEADER = "X-Pikavae-Signature"
EVENT_HEADER = "X-Pikavae-Event"
ID_HEADER = "X-Pikavae-Id"
SECONDS = 5.0
"""The time for a connection, and between two parts of an answer."""
WEBHOOK_SCHEMES = ("http", "https")
JSON_SCHEMES = ("json", "jsons")
"""Schemes of apprise for a webhook; its settings after `?` count, the JSON is ours."""

_loading = threading.Lock()
_posting = threading.local()


class UndeliveredError(PikavaeError):
    """Reports that an address did not take a notification. The message has no secrets."""


@dataclass(frozen=True)
class Webhook:
    """Holds where and how to post."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    auth: tuple[str, str] | None = None
    verify: bool = True


def sign(body: bytes, secret: str) -> str:
    """Return the signature of a webhook's body: `sha256=` and the HMAC-SHA256 in hexadecimal."""
    return f"sha256={hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()}"


def check_address(address: Address) -> None:
    """Check that the address can be read. Nothing is sent.

    Raises:
        UndeliveredError: neither pikavae nor apprise knows such an address.
    """
    _target(address.url)


def send(address: Address, notification: Notification, home: Path) -> None:
    """Send a notification to one address, and return when it was taken.

    Args:
        address: where to.
        notification: what.
        home: the state folder, which has the picture.

    Raises:
        UndeliveredError: the address is not valid, does not answer in time, or refuses.
    """
    target = _target(address.url)
    if isinstance(target, Webhook):
        _post(target, address.secret, notification, home)
    else:
        _send_by_apprise(target, notification, home)


def _target(url: str) -> Webhook | NotifyBase:
    """Return what an address stands for. An http(s) address that apprise knows, such as Slack's, is that service's."""
    scheme = url.partition("://")[0].lower()
    plugin = _plugin(url)
    if plugin is None:
        if scheme in WEBHOOK_SCHEMES:
            return Webhook(url)
        raise UndeliveredError("no address that apprise or pikavae knows; see apprise's list of services")
    return _json_webhook(plugin) if scheme in JSON_SCHEMES else plugin


def _json_webhook(plugin: Any) -> Webhook:
    """Return the webhook that apprise would post to for a `json://` address."""
    import httpx

    base = f"{'https' if plugin.secure else 'http'}://{plugin.host}{f':{plugin.port}' if plugin.port else ''}"
    url = httpx.URL(f"{base}{plugin.fullpath}").copy_merge_params(plugin.params)
    auth = (plugin.user, plugin.password or "") if plugin.user else None
    return Webhook(str(url), dict(plugin.headers), auth, verify=bool(plugin.verify_certificate))


def _post(webhook: Webhook, secret: str | None, notification: Notification, home: Path) -> None:
    import httpx

    logging.getLogger("httpx").addFilter(_is_not_ours)  # it logs each address, at level INFO
    body = notification.payload(home)
    headers = {
        "User-Agent": "pikavae",
        **webhook.headers,
        "Content-Type": "application/json",
        EVENT_HEADER: notification.event,
        ID_HEADER: notification.id,
        **({SIGNATURE_HEADER: sign(body, secret)} if secret else {}),
    }
    _posting.now = True
    try:
        with (
            httpx.Client(timeout=SECONDS, verify=webhook.verify) as client,
            client.stream("POST", webhook.url, content=body, headers=headers, auth=webhook.auth) as answer,
        ):
            status = answer.status_code  # what it says besides is not read: it may never end
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, OSError) as error:
        raise UndeliveredError(f"no answer ({type(error).__name__})") from None  # its text may have the URL
    finally:
        _posting.now = False
    if not 200 <= status < 300:
        raise UndeliveredError(f"it answered with status {status}")


def _is_not_ours(_record: logging.LogRecord) -> bool:
    """Return False for what is logged in a thread while it posts to a webhook."""
    return not getattr(_posting, "now", False)


def _send_by_apprise(plugin: NotifyBase, notification: Notification, home: Path) -> None:
    import apprise

    picture = notification.picture if notification.read_picture(home) is not None else None
    attach = [str(home / picture)] if picture is not None and plugin.attachment_support else None
    try:
        taken = plugin.notify(
            body=notification.text(),
            title=notification.title,
            notify_type=apprise.NotifyType(notification.severity),
            body_format=apprise.NotifyFormat.TEXT,
            attach=attach,
        )
    except Exception as error:  # noqa: BLE001 - a hundred plugins of others, which raise what their libraries do
        raise UndeliveredError(f"{plugin.service_name} failed ({type(error).__name__})") from None
    if not taken:
        raise UndeliveredError(f"{plugin.service_name} did not take it: no answer, or refused")


@cache
def _plugin(url: str) -> Any:
    """Return apprise's plugin for an address, None if it has none. It is kept, since it knows when it sent last."""
    with _loading, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the modules that its plugins import
        import apprise

        # Its lines have parts of addresses. Ours say that an address was not reached.
        logging.getLogger("apprise").setLevel(logging.CRITICAL + 1)
        asset = apprise.AppriseAsset(
            app_id="pikavae",
            app_desc="pikavae",
            app_url="",
            async_mode=False,
            storage_mode=apprise.PersistentStoreMode.MEMORY,  # nothing of it is written to the disk
            http_redirects=False,
            pgp_autogen=False,
            pem_autogen=False,
        )
        return apprise.Apprise.instantiate(url, asset=asset)

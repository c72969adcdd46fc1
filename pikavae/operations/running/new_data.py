"""Train again when a source has enough new pictures: poll it, judge what is new, and train, with everything on record.

A poll is cheap if the listing is that of the poll before. Otherwise new and changed files are hashed, and only if they
may be enough are they decoded. What is decided is written before it is done, so that a kill at any moment neither
trains twice on the same pictures nor forgets them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from pikavae.config import Config, content_hash
from pikavae.data.news.judge import Amount, Limits, judge
from pikavae.data.news.look import look_at, require_pollable
from pikavae.data.news.pictures import Pictures
from pikavae.data.news.record import NewDataRecord, Polling, What
from pikavae.data.news.survey import survey
from pikavae.errors import BusyError, DamagedFileError, PikavaeError, PreemptedError, TransientError, UserError
from pikavae.operations.running.planning import Retraining, plan_retraining
from pikavae.process.stopping import ignore_stops
from pikavae.tracker.client import Workspace
from pikavae.workspace.disks import explain

logger = logging.getLogger(__name__)

PLACE = ("source", "validation_source", "hub_config", "split", "image_column", "exclude", "links_into")
"""Settings of section `data` that name the pictures: others make another set of the same ones."""

AGAIN = "; it is tried again when pictures are added, or when `pikavae schedule run` asks for it"

STANDS = "stands"
"""What a training says of its version beside the champion, in its result."""

Train = Callable[[Retraining], dict[str, Any]]
"""Runs the stages, and returns what they made, as `summary` does."""


@dataclass(frozen=True)
class NewDataRule:
    """Says when a source is polled into a training.

    Attributes:
        amount: how many new pictures are enough.
        quiet_minutes: how long no file may have changed.
        tries: how often a training that fails is begun.
        limits: how much worse the new pictures may be.
    """

    amount: Amount = field(default_factory=Amount)
    quiet_minutes: float = 10.0
    tries: int = 3
    limits: Limits = field(default_factory=Limits)

    @classmethod
    def of(cls, at_least: str, *, quiet_minutes: float, tries: int, limits: Limits | None = None) -> NewDataRule:
        """Return the rule of these values; `at_least` is a number such as `50`, or a share such as `10%`.

        Raises:
            UserError: a value can never be met.
        """
        return cls(Amount.parse(at_least, "at_least"), quiet_minutes, tries, limits or Limits())

    def __post_init__(self) -> None:
        """Refuse what can never be met.

        Raises:
            UserError: a number is negative, or no try is allowed.
        """
        if not 0 <= self.quiet_minutes < float("inf"):
            raise UserError(f"quiet_minutes {self.quiet_minutes:g}: expected a number of minutes from 0")
        if self.tries < 1:
            raise UserError(f"tries {self.tries}: a training is tried at least once; give 1 or more")


@dataclass(frozen=True)
class Polled:
    """Holds what a poll did.

    Attributes:
        what: what it decided.
        words: the same for a person.
        result: what a training made; empty without one.
    """

    what: What
    words: str
    result: dict[str, Any] = field(default_factory=dict)


def check_new_data(config: Config) -> None:
    """Refuse a source that cannot be polled, or that is not there now.

    Raises:
        UserError: it is neither a folder, files nor a data set of the hub, or it is missing.
    """
    require_pollable(config.data)
    if not config.data.source.startswith("hub:"):
        look_at(config.data)


def retrain_on_new_data(
    workspace: Workspace,
    config: Config,
    name: str,
    rule: NewDataRule,
    train: Train,
    *,
    from_champion: bool = False,
    asked: bool = False,
) -> Polled:
    """Poll a source once, and train if it has enough new pictures that are fit for it.

    Args:
        workspace: the state folder and its store.
        config: the whole configuration.
        name: names the state, which is kept from poll to poll.
        rule: what is enough, quiet and fit.
        train: runs the stages.
        from_champion: begin with the champion's weights.
        asked: a person asked for this poll: a training that failed too often is tried again.

    Raises:
        UserError: the source can never have new pictures.
        PikavaeError: the training failed; the next poll tries it again. Other errors of it are raised too.
    """
    require_pollable(config.data)
    polling = Polling(workspace.home, name)
    try:
        with polling.lock():
            return _Poll(workspace, config, polling, rule, train, from_champion).run(asked=asked)
    except BusyError as error:
        return Polled("waits", str(error))


@dataclass
class _Poll:
    """Does one poll; the caller holds its lock.

    Attributes:
        workspace: the state folder and its store.
        config: the whole configuration.
        polling: where the state is.
        rule: what is enough, quiet and fit.
        train: runs the stages.
        from_champion: begin with the champion's weights.
        record: the state.
    """

    workspace: Workspace
    config: Config
    polling: Polling
    rule: NewDataRule
    train: Train
    from_champion: bool
    record: NewDataRecord = field(init=False)

    def run(self, *, asked: bool) -> Polled:
        """Look, judge what changed, and do what follows."""
        self.record = self._read()
        pictures = None
        try:
            if unrest := self._look():
                return self._decide("waits", f"waits: {unrest}")
            if self.key != self.record.judged:
                pictures = self._judge()
        except TransientError as error:
            return self._decide("waits", f"waits: {error}")
        except (UserError, OSError) as error:
            told = error if isinstance(error, UserError) else explain(error, self.workspace.home) or error
            return self._refuse("source", f"refused: {' '.join(str(told).split())}", str(time.time()))
        return self._follow(pictures, asked=asked)

    def _follow(self, pictures: Pictures | None, *, asked: bool) -> Polled:
        """Do what follows from the judgement; `pictures` are those of the source if it was judged now."""
        outcome, words, reason = self.record.judgement
        if outcome == "refused":
            return self._refuse(reason, words, self.key)
        self.record = self.record.changed(refused=None)
        if pictures is not None and (outcome == "train" or self.record.trained is None):
            return self._settle(pictures, words)
        if self.record.pending is not None:
            return self._try(again=asked)
        return self._decide("waits" if outcome == "waits" else "none", words)

    def _read(self) -> NewDataRecord:
        """Return the state; another source, or a damaged file, begins anew."""
        data = self.config.data.model_dump(mode="json")
        source = content_hash({name: data[name] for name in PLACE})
        try:
            found = self.polling.read()
        except DamagedFileError as error:
            self.polling.path.replace(self.polling.path.with_suffix(".damaged"))
            logger.warning("%s; it is kept as %s.damaged, and the polls begin anew", error, self.polling.stem)
            found = None
        return found if found is not None and found.source == source else NewDataRecord(source=source)

    def _look(self) -> str:
        """Look at the source, and return why it may still be changing."""
        look, now = look_at(self.config.data), time.time()
        before = None if self.record.listing is None else (self.record.listing, self.record.looked)
        self.record = self.record.changed(listing=look.digest, looked=now)
        return look.unrest(60 * self.rule.quiet_minutes, now, before)

    @property
    def key(self) -> str:
        """What a judgement holds for: this listing, by this rule."""
        amount, limits = self.rule.amount, self.rule.limits.model_dump()
        return content_hash([self.record.listing, amount.count, amount.share, limits])

    def _judge(self) -> Pictures | None:
        """Find out what is new, judge it, and return the pictures of the source if all of them are known now."""
        config = self.config.data
        try:
            trained = self.polling.pictures(self.record.trained)
        except DamagedFileError as error:
            logger.warning("%s; all pictures count as new", error)
            self.record = self.record.changed(trained=None)
            trained = self.polling.pictures(None)
        found = survey(config, self.workspace.home / "prepared", trained)
        judgement, pictures = judge(found.undecoded(), self.rule.amount, self.rule.limits), None
        if judgement.outcome == "train" or (judgement.outcome == "waits" and not len(trained)):
            news, pictures = found.decode(config.workers, config.max_pixels)
            judgement = judge(news, self.rule.amount, self.rule.limits)
        if look_at(config).digest != self.record.listing:
            raise TransientError("files changed while they were read")
        stated = [judgement.outcome, judgement.words, judgement.reason]
        self.record = self.record.changed(judged=self.key, judgement=stated, pending=None, tries=0, problem="")
        return pictures

    def _settle(self, pictures: Pictures, words: str) -> Polled:
        """Begin a training on what is new; without an earlier one, see first if another run trained on it."""
        file = pictures.save(self.polling.folder, self.polling.stem)
        self.record = self.record.changed(pending=file, news=words)
        if self.record.judgement[0] == "train":
            return self._begin()
        try:
            is_trained = not self._plan().has_news
        except PikavaeError:  # it is reported when there is enough to train on
            is_trained = False
        if is_trained:
            return self._note_trained()
        self.record = self.record.changed(pending=None)
        return self._decide("waits", words)

    def _plan(self) -> Retraining:
        return plan_retraining(self.workspace, self.config, from_champion=self.from_champion)

    def _note_trained(self) -> Polled:
        """Take the pictures that are there for those of the last training."""
        words = "no new pictures; those that are there are trained already"
        done = self.record.changed(trained=self.record.pending, pending=None, tries=0, problem="")
        self.record = done.changed(judgement=["none", "no new pictures", ""])
        return self._decide("none", words)

    def _try(self, *, again: bool) -> Polled:
        """Try again to train on what is new, or give up."""
        if again:
            self.record = self.record.changed(tries=0)
        problem = self.record.problem or "its process was killed, or the machine stopped"
        self.record = self.record.changed(problem=problem)
        if self.record.tries >= self.rule.tries:
            return self._decide(
                "gave up", f"{self.record.news}: gave up after {self.rule.tries} tries: {problem}{AGAIN}"
            )
        return self._begin()

    def _begin(self) -> Polled:
        """Train, and record how it ended."""
        number, before, news = self.record.tries + 1, self.record.problem, self.record.news
        try:
            retraining = self._plan()
            if not retraining.has_news:
                return self._note_trained()
            after = f", try {number} of {self.rule.tries}; before: {before}" if before else ""
            self.record = self.record.changed(tries=number, problem="")
            self._decide("trains", f"trains on {news}{after}")
            result = self.train(retraining)
        except BaseException as error:
            with ignore_stops():
                self._record_end(error, number)
            raise
        self.record = self.record.changed(
            trained=self.record.pending, pending=None, tries=0, judgement=["none", "no new pictures", ""]
        )
        made = f": version {result['version']} of {result['model']}" if "version" in result else ""
        stands = f", {result[STANDS]}" if STANDS in result else ""
        return replace(self._decide("retrained", f"retrained on {news}{made}{stands}"), result=result)

    def _record_end(self, error: BaseException, number: int) -> None:
        """Record why a training did not finish; one that was stopped from outside does not count as a try."""
        news, of = self.record.news, f"try {number} of {self.rule.tries}"
        if isinstance(error, PreemptedError) or not isinstance(error, Exception):
            self.record = self.record.changed(tries=number - 1, problem="it was stopped from outside")
            self._decide("stopped", f"{news}: the training was stopped; the next poll resumes it")
            return
        told = error if isinstance(error, PikavaeError) else explain(error, self.workspace.home)
        reason = " ".join(str(told).split()) if told else f"{type(error).__name__}: {error}"
        self.record = self.record.changed(tries=number, problem=reason)
        then = "; the next poll tries again" if number < self.rule.tries else AGAIN
        self._decide("failed", f"{news}: the training failed, {of}: {reason}{then}")

    def _refuse(self, reason: str, words: str, key: str) -> Polled:
        self.record = self.record.refuse(self.polling.name, self.config.data.source, reason, words, key)
        return self._decide("refused", words)

    def _decide(self, what: What, words: str) -> Polled:
        """Write the state with a decision."""
        self.record = self.record.decided(what, words, datetime.now(UTC).isoformat(timespec="seconds"))
        self.polling.save(self.record)
        logger.info("%s: %s", self.polling.name, words)
        return Polled(what, words)

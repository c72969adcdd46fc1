"""Check cron lines and time zones, and say when a schedule fires and when next."""

from __future__ import annotations

import asyncio
import difflib
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo, available_timezones

from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule, RRuleSchedule
from pydantic import ValidationError

from pikavae.errors import UserError

CRON_FIELDS = 5

AnySchedule = CronSchedule | IntervalSchedule | RRuleSchedule


def cron_schedule(cron: str, timezone: str, *, where: str) -> CronSchedule:
    """Return a schedule that is certain to fire.

    Args:
        cron: five fields: minute, hour, day of the month, month, day of the week.
        timezone: a name of the IANA database, such as Europe/Berlin.
        where: the start of messages, before the name of the field.

    Raises:
        UserError: the line or the zone is not valid, or no day fits it.
    """
    if len(cron.split()) != CRON_FIELDS and not cron.startswith("@"):
        raise UserError(f"{where}cron {cron!r}: expected {CRON_FIELDS} fields, such as '0 3 * * 1' (Mondays at 3:00)")
    try:
        schedule = CronSchedule(cron=cron, timezone=timezone)
    except ValidationError as error:
        message = str(error.errors()[0]["ctx"]["error"])
        if "timezone" in message:
            raise UserError(f"{where}timezone {timezone!r}: no such time zone; {zone_hint(timezone)}") from None
        raise UserError(f"{where}cron {cron!r}: not a schedule; an example is '0 3 * * 1' (Mondays at 3:00)") from None
    if not next_dates(schedule, 1):
        raise UserError(f"{where}cron {cron!r}: there is no such day")
    return schedule


def zone_hint(timezone: str) -> str:
    """Suggest a time zone with a similar name or city.

    Zones of `Etc/` are not suggested: `Etc/GMT+2` is west of Greenwich, and GMT+2 mostly means east.
    """
    places = (zone for zone in available_timezones() if "/" in zone and not zone.startswith("Etc/"))
    zones = {zone.lower(): zone for zone in ["UTC", *places]}
    cities = {zone.rpartition("/")[2].lower(): zone for zone in sorted(zones.values())}
    near = difflib.get_close_matches(timezone.strip().replace(" ", "_").lower(), cities | zones, n=1, cutoff=0.7)
    return f"did you mean {(cities | zones)[near[0]]}?" if near else "an example is Europe/Berlin"


def next_dates(schedule: AnySchedule, count: int) -> list[datetime]:
    """Return the next dates of a schedule, as Prefect's scheduler computes them; none if it has ended."""
    from prefect.server.schemas import schedules

    same = getattr(schedules, type(schedule).__name__).model_validate(schedule.model_dump())
    try:
        return list(asyncio.run(same.get_dates(count, start=datetime.now(ZoneInfo(schedule.timezone or "UTC")))))
    except ValueError:  # croniter gives up after fifty years without a date
        return []


def describe_rule(schedule: AnySchedule) -> str:
    """Return when a schedule fires: its cron line, its interval or its RRULE."""
    if isinstance(schedule, CronSchedule):
        return schedule.cron
    if isinstance(schedule, RRuleSchedule):
        return schedule.rrule
    for name, unit in (("day", 86_400), ("hour", 3600), ("minute", 60)):
        count, rest = divmod(schedule.interval, timedelta(seconds=unit))
        if count and not rest:
            return f"every {name}" if count == 1 else f"every {count} {name}s"
    return f"every {schedule.interval.total_seconds():g} seconds"

"""Settings, read from the environment once at start; a bad value stops the start with one sentence."""

import os
import re
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import environ
from celery.schedules import crontab
from django.core.exceptions import ImproperlyConfigured
from redis.backoff import NoBackoff
from redis.retry import Retry

from relayadmin.embedded import payments as embedded_payments

BASE_DIR = Path(__file__).resolve().parent.parent
env = environ.Env()


def _stop(sentence: str) -> None:
    print(f"relayadmin: {sentence}", file=sys.stderr)
    raise SystemExit(2)


def _boolean(name: str, default: bool) -> bool:
    raw = os.environ.get(name, "").strip().lower()
    if raw == "":
        return default
    if raw in {"1", "true", "yes", "on"}:
        return True
    if raw not in {"0", "false", "no", "off"}:
        _stop(f"{name} must be true or false, not {raw!r}.")
    return False


def _database(url: str) -> dict[str, Any]:
    if urlsplit(url).scheme not in {"postgres", "postgresql", "pgsql", "psql"}:
        _stop("DATABASE_URL must start with postgres:// and name a PostgreSQL database.")
    try:
        parsed: dict[str, Any] = dict(env.db_url_config(url))
    except (ValueError, ImproperlyConfigured):
        _stop("DATABASE_URL is not a database address; write postgres://user:password@host:5432/name.")
    return parsed


def _mail(url: str) -> dict[str, Any]:
    """The settings of a mail server, its port by the scheme where none is given."""
    try:
        parsed: dict[str, Any] = dict(env.email_url_config(url))
    except (ValueError, ImproperlyConfigured):
        _stop("EMAIL_URL is not a mail server's address; write smtp+tls://user:password@host:587.")
    if parsed["EMAIL_BACKEND"].endswith("smtp.EmailBackend") and not parsed["EMAIL_HOST"]:
        _stop("EMAIL_URL names no host; write smtp+tls://user:password@host:587.")
    port = 465 if parsed.get("EMAIL_USE_SSL") else 587 if parsed.get("EMAIL_USE_TLS") else 25
    return parsed | {"EMAIL_PORT": parsed["EMAIL_PORT"] or port}


def _setting(name: str, pattern: str, wanted: str) -> str:
    """A value that may be left out, but not be wrong; the sentence does not repeat it, for it may be a secret."""
    value = os.environ.get(name, "").strip()
    if value and not re.fullmatch(pattern, value, re.ASCII):
        _stop(f"{name} must be {wanted}.")
    return value


RELAYADMIN_HOME = Path(os.environ.get("RELAYADMIN_HOME") or BASE_DIR / "var").resolve()
EMBEDDED = os.environ.get("RELAYADMIN_EMBEDDED") == "1"
DEBUG = _boolean("DEBUG", False)

# Without servers (mypy, help) the settings still load: nothing connects to these names.
DATABASE_URL = os.environ.get("DATABASE_URL") or "postgres://nobody@127.0.0.1:1/none"
REDIS_URL = os.environ.get("REDIS_URL") or "redis://127.0.0.1:1/0"

SECRET_KEY = os.environ.get("SECRET_KEY", "")
if not SECRET_KEY:
    if os.environ.get("DATABASE_URL") and not DEBUG:
        _stop("SECRET_KEY is missing; set it to a long random string (it is required when DEBUG is off).")
    SECRET_KEY = "unset: no server is running with these settings"

ALLOWED_HOSTS = env.list("ALLOWED_HOSTS", default=["127.0.0.1", "localhost", "[::1]"])
CSRF_TRUSTED_ORIGINS = [f"https://{host}" for host in ALLOWED_HOSTS if "*" not in host]

_SESSION = "-c timezone=UTC -c lock_timeout=30s -c idle_in_transaction_session_timeout=120s"
# A server or a path to it that is gone without a word: the wait ends after half a minute, not with the kernel's quarter
# of an hour. What DATABASE_URL says itself comes first.
_NETWORK = {
    "connect_timeout": 10,
    "keepalives_idle": 15,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
_default = _database(DATABASE_URL)
DATABASES = {
    "default": {
        **_default,
        "CONN_MAX_AGE": None,
        "OPTIONS": {"prepare_threshold": 2, "options": _SESSION, **_NETWORK, **_default.get("OPTIONS", {})},
    }
}

INSTALLED_APPS = [
    "unfold",
    "unfold.contrib.filters",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django.contrib.postgres",
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "django_celery_beat",
    "billing",
    "metering",
]

MIDDLEWARE = [
    "relayadmin.middleware.errors_as_json",
    "relayadmin.middleware.Security",
    "relayadmin.middleware.Static",
    "relayadmin.middleware.Session",
    "relayadmin.middleware.Common",
    "relayadmin.middleware.Csrf",
    "relayadmin.middleware.Authentication",
    "relayadmin.middleware.Messages",
    "relayadmin.middleware.Frame",
]

ROOT_URLCONF = "relayadmin.urls"
WSGI_APPLICATION = "relayadmin.wsgi.application"
APPEND_SLASH = False
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
TIME_ZONE = "UTC"
LANGUAGE_CODE = "en"
# Usage batches arrive unpacked up to 16 MiB; metering.api refuses what is larger itself.
DATA_UPLOAD_MAX_MEMORY_SIZE = 16 * 1024 * 1024 + 1024

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]

STATIC_URL = "/static/"
# Files are served from where they lie; a folder they were collected in is used when there is one.
_collected = RELAYADMIN_HOME / "static"
STATIC_ROOT = _collected if _collected.is_dir() or "collectstatic" in sys.argv else None
WHITENOISE_USE_FINDERS = True
WHITENOISE_AUTOREFRESH = False

# Nothing is kept in it that a page would have to wait for.
CACHES = {
    "default": {
        "BACKEND": "django.core.cache.backends.redis.RedisCache",
        "LOCATION": REDIS_URL,
        "OPTIONS": {"socket_timeout": 0.25, "socket_connect_timeout": 0.25, "retry": Retry(NoBackoff(), 0)},
    }
}

# Without it nothing is mailed, for Django's own default would try a server on this machine; in development, mail to
# customers is written to the console.
EMAIL_URL = os.environ.get("EMAIL_URL", "").strip()
SENDS_MAIL = bool(EMAIL_URL) or EMBEDDED or DEBUG
if SENDS_MAIL and not EMAIL_URL:
    EMAIL_BACKEND = "django.core.mail.backends.console.EmailBackend"
    DEFAULT_FROM_EMAIL = "relayadmin@localhost"
if EMAIL_URL:
    _email = _mail(EMAIL_URL)
    EMAIL_BACKEND = _email["EMAIL_BACKEND"]
    EMAIL_HOST, EMAIL_PORT = _email["EMAIL_HOST"], _email["EMAIL_PORT"]
    EMAIL_HOST_USER, EMAIL_HOST_PASSWORD = _email["EMAIL_HOST_USER"] or "", _email["EMAIL_HOST_PASSWORD"] or ""
    EMAIL_USE_TLS, EMAIL_USE_SSL = _email.get("EMAIL_USE_TLS", False), _email.get("EMAIL_USE_SSL", False)
    EMAIL_FILE_PATH = f"/{_email['EMAIL_FILE_PATH']}"  # Of filemail:///folder alone.
    EMAIL_TIMEOUT = 10
    DEFAULT_FROM_EMAIL = EMAIL_HOST_USER if "@" in EMAIL_HOST_USER else f"relayadmin@{EMAIL_HOST or 'localhost'}"

# Webhooks to customers go by https to the public internet; in development also by http, and with the embedded servers,
# which only loopback reaches, to loopback.
WEBHOOKS_OVER_HTTP = EMBEDDED or DEBUG
WEBHOOKS_TO_LOOPBACK = EMBEDDED

STRIPE_SECRET_KEY = _setting("STRIPE_SECRET_KEY", r"(sk|rk)_[!-~]+", "a secret key of Stripe, sk_… or rk_…")
STRIPE_WEBHOOK_SECRET = _setting("STRIPE_WEBHOOK_SECRET", r"whsec_[!-~]+", "a webhook's signing secret, whsec_…")
STRIPE_API_BASE = _setting("STRIPE_API_BASE", r"https?://[^/?#@\s]+/?", "an address such as http://127.0.0.1:12111")
STRIPE_API_BASE = STRIPE_API_BASE.rstrip("/")

# Without anything of Stripe's, `make run` brings a stand-in of its own; nobody else gets one.
_sandbox = embedded_payments.read(RELAYADMIN_HOME) if embedded_payments.wanted() else None
PAYMENTS_SANDBOX = _sandbox is not None
if _sandbox is not None:
    STRIPE_SECRET_KEY, STRIPE_WEBHOOK_SECRET = _sandbox.secret_key, _sandbox.webhook_secret
    STRIPE_API_BASE = _sandbox.address

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 10}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]
LOGIN_URL = "/admin/login/"
LOGIN_REDIRECT_URL = "/admin/"
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = "Lax"
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = not (EMBEDDED or DEBUG)
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
X_FRAME_OPTIONS = "DENY"

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "billing.api.authentication.AccessTokenAuthentication",
        "billing.api.authentication.MemberSessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["billing.api.authentication.HasCustomer"],
    "DEFAULT_RENDERER_CLASSES": ["billing.api.renderers.MsgspecJSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["billing.api.parsers.StrictJSONParser"],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "EXCEPTION_HANDLER": "billing.api.exceptions.handle",
    "LIST_SERIALIZER_ERRORS_AS_DICT": True,
    "URL_FORMAT_OVERRIDE": None,
    "UNAUTHENTICATED_USER": None,
}
SPECTACULAR_SETTINGS = {
    "TITLE": "relayadmin customer API",
    "DESCRIPTION": "Balances, keys, usage, prices and invoices of one customer. Amounts are decimal strings in USD.",
    "VERSION": "1",
    "SERVE_INCLUDE_SCHEMA": False,
    "SERVE_PERMISSIONS": ["rest_framework.permissions.AllowAny"],
    "SERVE_AUTHENTICATION": [],
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "REDOC_DIST": "SIDECAR",
    # No validator of somebody else is told of our address.
    "SWAGGER_UI_SETTINGS": {"deepLinking": True, "validatorUrl": None},
    "SCHEMA_PATH_PREFIX": r"/api/v1",
    "COMPONENT_SPLIT_REQUEST": True,
    "ENUM_NAME_OVERRIDES": {
        "ApiKeyStatus": "metering.api.customer_serializers.API_KEY_STATUS",
        "SpendLimitSpan": "billing.models.spending.Span",
        "SpendLimitType": "metering.api.customer_serializers.SPEND_LIMIT_TYPE",
        "SpendLimitOwner": "billing.models.SpendLimit.Owner",
        "EventStatus": "metering.models.UsageEvent.Status",
        "InvoiceStatus": "billing.api.serializers.INVOICE_STATUS",
        "TopUpStatus": "billing.models.TopUp.Status",
        "TopUpOrigin": "billing.models.TopUp.Origin",
        "GrantKind": "billing.models.Grant.Kind",
        "RechargeOff": "billing.models.Recharge.Off",
        "DeliveryStatus": "billing.models.Delivery.Status",
        "TransferKind": "billing.models.Transfer.Kind",
        "Meter": "metering.meters.NAMES",
    },
}

CELERY_BROKER_URL = os.environ.get("CELERY_BROKER_URL") or REDIS_URL
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_ACKS_LATE = True
CELERY_TASK_REJECT_ON_WORKER_LOST = True
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_TIMEZONE = "UTC"
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BEAT_SCHEDULER = "relayadmin.scheduler:Scheduler"
# What beat puts into the timetable where it is missing; times and switches are the operator's from then on.
CELERY_BEAT_SCHEDULE = {
    "expire holds": {"task": "billing.expire_holds", "schedule": 15.0},
    "post scheduled grants": {"task": "billing.post_scheduled_grants", "schedule": 60.0},
    "expire credit": {"task": "billing.expire_credit", "schedule": 60.0},
    "settle parked events": {"task": "metering.settle_parked_events", "schedule": 60.0},
    "watch what waits": {"task": "metering.watch_what_waits", "schedule": 60.0},
    # Scheduled when the time zone changes, too; here for what a restart or a lost message left.
    "count spend anew": {"task": "metering.count_spend_anew", "schedule": 60.0},
    "promote customers": {"task": "metering.promote_customers", "schedule": 60.0},
    "watch rate limits": {"task": "metering.watch_rate_limits", "schedule": 60.0},
    # Scheduled when a webhook comes, too; here for what a dead worker or a lost message left.
    "work off webhooks": {"task": "billing.work_off_webhooks", "schedule": 30.0},
    "send refunds": {"task": "billing.send_refunds", "schedule": 60.0},
    "ask about disputes": {"task": "billing.ask_about_disputes", "schedule": 60.0},
    "reconcile with Stripe": {"task": "billing.reconcile_stripe", "schedule": crontab(minute="15", hour="5")},
    "sweep top-ups": {"task": "billing.sweep_top_ups", "schedule": 60.0},
    "apply the debt policy": {"task": "billing.apply_debt_policy", "schedule": 60.0},
    # Hourly, because the operator's day may begin at any hour of UTC.
    "chase overdue invoices": {"task": "billing.chase_overdue_invoices", "schedule": crontab(minute="12")},
    "tell debtors": {"task": "billing.tell_debtors", "schedule": 60.0},
    "send webhooks": {"task": "billing.send_webhooks", "schedule": 5.0},
    "send mail": {"task": "billing.send_mail", "schedule": 10.0},
    "tell of low balances": {"task": "billing.tell_of_low_balances", "schedule": 60.0},
    # Hourly, because the operator's month may begin at any hour of UTC; the task waits for the right one.
    "close last month": {"task": "metering.close_last_month", "schedule": crontab(minute="7")},
    "watch closings": {"task": "metering.watch_closings", "schedule": 300.0},
    "check the ledger": {
        "task": "metering.check_ledger",
        "schedule": crontab(minute="30", hour="3"),
        "description": "Recompute what has moved since the last check, and compare every figure.",
    },
    "check the whole ledger": {
        "task": "metering.check_ledger",
        "schedule": crontab(minute="30", hour="4", day_of_week="sun"),
        "kwargs": {"full": True},
        "description": "Recompute all books from the first movement on, and compare every figure.",
    },
    "recharge wallets": {"task": "billing.recharge_wallets", "schedule": 30.0},
    "look after saved cards": {"task": "billing.look_after_saved_cards", "schedule": 60.0},
    "issue receipts": {"task": "billing.issue_receipts", "schedule": 60.0},
    "issue receipts that were missed": {
        "task": "billing.issue_receipts",
        "schedule": crontab(minute="20", hour="3"),
        "kwargs": {"everywhere": True},
        "description": "Make the receipts of paid top-ups that have none, however old.",
    },
    "remove old job runs": {"task": "billing.remove_old_job_runs", "schedule": crontab(minute="45", hour="2")},
    "remove old deliveries": {"task": "billing.remove_old_deliveries", "schedule": crontab(minute="40", hour="2")},
    "remove old idempotent answers": {
        "task": "billing.remove_old_idempotent_answers",
        "schedule": crontab(minute="50", hour="2"),
    },
    "remove old spend counters": {
        "task": "billing.remove_old_spend_counters",
        "schedule": crontab(minute="55", hour="2"),
    },
}

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s %(message)s"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["console"], "level": "INFO"},
    # Of each call to Stripe the package tells at INFO.
    "loggers": {"django.request": {"level": "ERROR"}, "stripe": {"level": "WARNING"}},
}

# The admin writes dates as the API does: 2026-11-22 10:00:00.
FORMAT_MODULE_PATH = ["relayadmin.formats"]
UNFOLD = {
    "SITE_TITLE": "relayadmin",
    "SITE_HEADER": "relayadmin",
    "SITE_SUBHEADER": "Billing and usage",
    "SITE_SYMBOL": "receipt_long",
    "SITE_URL": None,
    "SHOW_HISTORY": True,
    "SHOW_VIEW_ON_SITE": False,
    "SITE_FAVICONS": [{"rel": "icon", "type": "image/svg+xml", "href": "relayadmin.admin_home.favicon"}],
    "STYLES": ["relayadmin.admin_home.stylesheet"],
    "DASHBOARD_CALLBACK": "relayadmin.admin_home.dashboard",
    "SIDEBAR": {"show_search": True, "show_all_applications": False, "navigation": "relayadmin.admin_home.navigation"},
}

"""Where notices are sent to, and each sending of them. What was announced before this stays unsent."""

import django.core.validators
import django.db.models.deletion
from django.db import migrations, models

import billing.models.messages
import relayadmin.db


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0171_bookkeeping"),
    ]

    operations = [
        migrations.RunSQL("SET lock_timeout = '5s'", migrations.RunSQL.noop),
        migrations.CreateModel(
            name="Delivery",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "public_id",
                    models.CharField(
                        default=billing.models.messages.new_delivery_id, editable=False, max_length=32, unique=True
                    ),
                ),
                ("channel", models.CharField(choices=[("mail", "Mail"), ("webhook", "Webhook")], max_length=7)),
                (
                    "address",
                    models.CharField(help_text="The mail address, or the endpoint's as it was then.", max_length=500),
                ),
                (
                    "status",
                    models.CharField(
                        choices=[("waiting", "Waiting"), ("sent", "Sent"), ("failed", "Failed")],
                        default="waiting",
                        max_length=7,
                    ),
                ),
                ("attempts", models.PositiveIntegerField(db_default=0, default=0)),
                ("status_code", models.PositiveIntegerField(help_text="What the other side answered last.", null=True)),
                ("error", models.CharField(blank=True, max_length=300)),
                ("duration_ms", models.PositiveIntegerField(help_text="Of the last attempt.", null=True)),
                (
                    "look_at",
                    models.DateTimeField(help_text="When a worker takes it up; empty when it is done with.", null=True),
                ),
                ("created_at", models.DateTimeField()),
                ("ended_at", models.DateTimeField(null=True)),
            ],
            options={
                "verbose_name_plural": "deliveries",
                "ordering": ("-id",),
            },
        ),
        migrations.CreateModel(
            name="LowBalance",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("since", models.DateTimeField()),
            ],
        ),
        migrations.CreateModel(
            name="NoticePreference",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("kind", models.CharField(max_length=60)),
                ("mail", models.BooleanField()),
                ("webhook", models.BooleanField()),
            ],
            options={
                "ordering": ("customer", "kind"),
            },
        ),
        migrations.CreateModel(
            name="NotificationSettings",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "addresses",
                    models.JSONField(default=list, help_text="Mail goes there; empty: to the customer's own address."),
                ),
                (
                    "low_balance_below",
                    relayadmin.db.AmountField(
                        help_text="Told when less than this is left to spend (USD); empty: the operator's; 0: never.",
                        null=True,
                    ),
                ),
                ("updated_at", models.DateTimeField()),
            ],
            options={
                "verbose_name_plural": "notification settings",
            },
        ),
        migrations.CreateModel(
            name="WebhookEndpoint",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "public_id",
                    models.CharField(
                        default=billing.models.messages.new_webhook_endpoint_id,
                        editable=False,
                        max_length=32,
                        unique=True,
                    ),
                ),
                ("url", models.CharField(max_length=500)),
                ("description", models.CharField(blank=True, max_length=200)),
                (
                    "kinds",
                    models.JSONField(default=list, help_text="Only these kinds; empty: all that the customer wants."),
                ),
                ("secret", models.CharField(editable=False, max_length=80)),
                ("previous_secret", models.CharField(blank=True, editable=False, max_length=80)),
                (
                    "previous_until",
                    models.DateTimeField(help_text="Until then, it is signed with the secret before, too.", null=True),
                ),
                (
                    "failing_since",
                    models.DateTimeField(help_text="The first failure since it last took something.", null=True),
                ),
                ("disabled_at", models.DateTimeField(null=True)),
                ("disabled_because", models.CharField(blank=True, max_length=200)),
                ("created_at", models.DateTimeField()),
                ("removed_at", models.DateTimeField(null=True)),
            ],
            options={
                "ordering": ("-id",),
            },
        ),
        migrations.AddField(
            model_name="notice",
            name="is_planned",
            field=models.BooleanField(
                db_default=True, default=False, help_text="Whether it was decided where it is sent to."
            ),
        ),
        migrations.AlterField(
            model_name="notice",
            name="is_planned",
            field=models.BooleanField(
                db_default=False, default=False, help_text="Whether it was decided where it is sent to."
            ),
        ),
        migrations.AddField(
            model_name="operatorsettings",
            name="low_balance_below",
            field=relayadmin.db.AmountField(
                db_default=5,
                default=5,
                help_text="Customers who set nothing themselves are told when less than this is left (USD); 0: never.",
            ),
        ),
        migrations.AddField(
            model_name="operatorsettings",
            name="site_url",
            field=models.CharField(
                blank=True,
                db_default="",
                help_text="Where customers reach this site, such as https://billing.example.com: for links in mail.",
                max_length=200,
                validators=[django.core.validators.URLValidator(schemes=["https", "http"])],
            ),
        ),
        migrations.AddIndex(
            model_name="notice",
            index=models.Index(condition=models.Q(("is_planned", False)), fields=["id"], name="notices_to_plan"),
        ),
        migrations.AddConstraint(
            model_name="operatorsettings",
            constraint=models.CheckConstraint(
                condition=models.Q(("low_balance_below__gte", 0)), name="operator_low_balance_not_negative"
            ),
        ),
        migrations.AddField(
            model_name="delivery",
            name="customer",
            field=models.ForeignKey(
                db_index=False, on_delete=django.db.models.deletion.PROTECT, related_name="+", to="billing.customer"
            ),
        ),
        migrations.AddField(
            model_name="delivery",
            name="notice",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.PROTECT, related_name="deliveries", to="billing.notice"
            ),
        ),
        migrations.AddField(
            model_name="lowbalance",
            name="customer",
            field=models.OneToOneField(
                on_delete=django.db.models.deletion.PROTECT, related_name="+", to="billing.customer"
            ),
        ),
        migrations.AddField(
            model_name="noticepreference",
            name="customer",
            field=models.ForeignKey(
                db_index=False, on_delete=django.db.models.deletion.PROTECT, related_name="+", to="billing.customer"
            ),
        ),
        migrations.AddField(
            model_name="notificationsettings",
            name="customer",
            field=models.OneToOneField(
                on_delete=django.db.models.deletion.PROTECT, related_name="+", to="billing.customer"
            ),
        ),
        migrations.AddField(
            model_name="webhookendpoint",
            name="customer",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.PROTECT, related_name="+", to="billing.customer"
            ),
        ),
        migrations.AddField(
            model_name="delivery",
            name="endpoint",
            field=models.ForeignKey(
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="deliveries",
                to="billing.webhookendpoint",
            ),
        ),
        migrations.AddConstraint(
            model_name="noticepreference",
            constraint=models.UniqueConstraint(fields=("customer", "kind"), name="one_preference_per_kind"),
        ),
        migrations.AddConstraint(
            model_name="notificationsettings",
            constraint=models.CheckConstraint(
                condition=models.Q(("low_balance_below", None), ("low_balance_below__gte", 0), _connector="OR"),
                name="low_balance_not_negative",
            ),
        ),
        migrations.AddIndex(
            model_name="delivery",
            index=models.Index(
                condition=models.Q(("look_at__isnull", False)), fields=["channel", "look_at"], name="deliveries_waiting"
            ),
        ),
        migrations.AddIndex(
            model_name="delivery",
            index=models.Index(fields=["customer", "channel", "created_at"], name="deliveries_of_customers"),
        ),
        migrations.AddConstraint(
            model_name="delivery",
            constraint=models.UniqueConstraint(
                condition=models.Q(("endpoint", None)),
                fields=("customer", "notice", "channel", "address"),
                name="one_mail_per_notice_and_address",
            ),
        ),
        migrations.AddConstraint(
            model_name="delivery",
            constraint=models.UniqueConstraint(
                condition=models.Q(("endpoint__isnull", False)),
                fields=("customer", "notice", "endpoint"),
                name="one_delivery_per_notice_and_endpoint",
            ),
        ),
        migrations.AddConstraint(
            model_name="delivery",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    models.Q(("channel", "mail"), ("endpoint", None)),
                    models.Q(("channel", "webhook"), ("endpoint__isnull", False)),
                    _connector="OR",
                ),
                name="webhook_deliveries_have_an_endpoint",
            ),
        ),
        migrations.AddConstraint(
            model_name="delivery",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    models.Q(("ended_at", None), ("look_at__isnull", False), ("status", "waiting")),
                    models.Q(
                        models.Q(("status", "waiting"), _negated=True), ("ended_at__isnull", False), ("look_at", None)
                    ),
                    _connector="OR",
                ),
                name="delivery_waits_or_has_ended",
            ),
        ),
    ]

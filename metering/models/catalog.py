from django.db import models


class Channel(models.Model):
    """Where a model is bought."""

    name = models.CharField(max_length=40, unique=True)
    label = models.CharField(max_length=100)
    source_names = models.JSONField(default=list, help_text="The names the price source uses for it.")

    class Meta:
        ordering = ("name",)

    def __str__(self) -> str:
        return self.name


class Model(models.Model):
    """What is sold."""

    public_id = models.CharField(max_length=255, unique=True)
    label = models.CharField(max_length=255, blank=True)
    maker = models.ForeignKey(
        Channel, on_delete=models.PROTECT, related_name="+", help_text="The channel whose price is the list price."
    )
    context_window = models.PositiveIntegerField(null=True, blank=True)
    max_output_tokens = models.PositiveIntegerField(
        null=True, blank=True, help_text="Reserved for a request that names no maximum of its own."
    )
    us_multiplier = models.DecimalField(
        max_digits=6, decimal_places=4, default=1, help_text="On token prices when inference is kept in the US."
    )
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ("public_id",)

    def __str__(self) -> str:
        return self.public_id


class ModelAlias(models.Model):
    """Another name under which relays report a model."""

    name = models.CharField(max_length=255, unique=True)
    model = models.ForeignKey(Model, on_delete=models.CASCADE, related_name="aliases")

    class Meta:
        ordering = ("name",)
        verbose_name_plural = "model aliases"

    def __str__(self) -> str:
        return self.name

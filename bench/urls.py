from django.http import HttpRequest, HttpResponse
from django.urls import include, path


def noop(request: HttpRequest) -> HttpResponse:
    """An empty view: what the server and Django cost alone."""
    return HttpResponse()


urlpatterns = [path("relay/noop", noop), path("", include("relayadmin.urls"))]

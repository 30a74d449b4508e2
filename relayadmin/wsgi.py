"""The WSGI application that granian serves."""

import gc
import os
import sys

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "relayadmin.settings")
application = get_wsgi_application()

from metering.api import relay  # noqa: E402 (needs the settings)
from relayadmin import neighbours  # noqa: E402

# What is loaded now lives as long as the process, and a batch makes and drops objects by the hundred thousand without
# cycles: the cyclic collector would only walk them.
gc.collect()
gc.freeze()
gc.set_threshold(100_000, 20, 20)

# A thread that comes back from the database waits for the interpreter at most this long behind one that decodes a
# large batch: authorizations are short and many.
sys.setswitchinterval(0.0005)

neighbours.serve(relay.take_from_neighbour)

"""What the tests of the running program share: start servers, databases and browsers; speak HTTP.

Every process started here runs in a session of its own, logs into the test's folder and is ended by its
own process id. Nothing uses a fixed port or a system service.
"""

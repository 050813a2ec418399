"""`samus-edge serve`: a service and a page to point and click. Needs the extra [server]."""

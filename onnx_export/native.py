def register(options):
    return None

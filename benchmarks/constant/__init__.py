"""A Django project that does nothing: what the frameworks alone cost."""

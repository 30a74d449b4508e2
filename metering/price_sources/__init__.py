"""Where prices come from, and how they become the book's models and price rows. Pure: no Django, no clock."""

"""The HTML page that shows what runs did."""

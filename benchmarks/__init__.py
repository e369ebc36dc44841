"""Measurements beyond the chapters: `make bench`, and chapter 3 on several devices."""

"""What moves an avatar: faces found in photos and clips, tracks, procedural motion. Phones have a camera instead."""

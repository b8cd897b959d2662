"""What frames are judged by: fidelity, expressions, teachers compared, and the pretrained networks that judge."""

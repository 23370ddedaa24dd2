<?php
/* For tests: comments as fast as they are written, each a second after the one before, so that their order is the same everywhere. */
defined('ABSPATH') || exit;
add_filter('wp_is_comment_flood', '__return_false', 99);
add_filter('preprocess_comment', static function (array $comment): array {
    $n = (int) $GLOBALS['wpdb']->get_var("SELECT MAX(comment_ID) FROM {$GLOBALS['wpdb']->comments}");
    $comment['comment_date'] = $comment['comment_date_gmt'] = gmdate('Y-m-d H:i:s', strtotime('2026-10-01 00:00:00 UTC') + $n);

    return $comment;
});

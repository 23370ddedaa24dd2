<?php
/*
 * What the comparison of servers needs: comments as fast as a test writes them, and an image that is made anew when
 * something changes that plugins and constants are loaded by.
 */
defined('ABSPATH') || exit;
add_filter('wp_is_comment_flood', '__return_false', 99);
include __DIR__ . '/image/stamp.php';   // the image is of the files that its boot has included
foreach (['active_plugins', 'siteurl', 'home'] as $name) {
    add_action("update_option_$name", static fn () => file_put_contents(__DIR__ . '/image/stamp.php', '<?php // ' . uniqid()));
}
